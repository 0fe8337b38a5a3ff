"""Selecting modules: globs on paths, `re:` patterns, types, or predicates, as in include=, exclude= and overrides=."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

Pattern = str | type | Callable[[str, nn.Module], bool]


def matches(pattern: Pattern, path: str, module: nn.Module) -> bool:
    """Whether one pattern selects the module at `path`.

    A glob selects a path, or everything below a path: "layers.*" and "layers" both select "layers.0.lin". `re:` patterns
    match the whole path. A type selects exactly that class.

    >>> matches("layers.*.lin", "layers.0.lin", nn.Identity()), matches("re:.*lin", "out.lin", nn.Identity())
    (True, True)
    """
    if isinstance(pattern, type):
        return type(module) is pattern
    if not isinstance(pattern, str):
        return bool(pattern(path, module))
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], path) is not None
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}.*")


def select(patterns: Iterable[Pattern], names: Sequence[tuple[str, nn.Module]]) -> bool:
    """Whether one of the patterns selects a module by one of its names."""
    return any(matches(pattern, path, module) for pattern in patterns for path, module in names)


def patterns_of(argument: str, given: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """The patterns that an argument holds. ValueError if it is one pattern and no sequence, or holds something else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{argument}={given!r}: pass a sequence of patterns, such as {argument}=[{given!r}].")
    patterns = tuple(given)
    for pattern in patterns:
        if not isinstance(pattern, str) and not callable(pattern):
            raise ValueError(f"{argument}: {pattern!r} is not a pattern; pass globs, 're:' patterns, types or predicates.")
        _check_regex(argument, pattern)
    return patterns


def check_patterns(arguments: Mapping[str, Sequence[Pattern]], candidates: Sequence[tuple[str, nn.Module]]) -> None:
    """ValueError, with the near misses, for a pattern that selects none of the candidates."""
    for argument, patterns in arguments.items():
        for pattern in patterns:
            if candidates and not select([pattern], candidates):
                paths = ", ".join(path or "(the model itself)" for path, _ in candidates[:8])
                more = f" and {len(candidates) - 8} more" if len(candidates) > 8 else ""
                raise ValueError(
                    f"{argument}: the pattern {pattern!r} matches none of the candidates, the layers {paths}{more}."
                )


def _check_regex(argument: str, pattern: Pattern) -> None:
    if isinstance(pattern, str) and pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"{argument}: {pattern!r} is not a regular expression ({error}); fix the pattern.") from error
