"""Standard output is a command's report and nothing else: what a user's own code prints goes to standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console

# what a pipe or a file takes in a line
WIDEST = 10_000

_reports: list[TextIO] = []


def reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, while which runs `print` writes to standard error, and only what is here to standard output."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        _reports.append(sys.stdout)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return command(*arguments, **options)
        finally:
            _reports.pop()

    return run


def console() -> Console:
    """Where reports are printed; lines are as long as they must be where it is no terminal."""
    out = Console(file=_stream())
    if not out.is_terminal:
        out.width = WIDEST
    return out


def say(text: str) -> None:
    """Print text as it is."""
    _stream().write(f"{text}\n")
    _stream().flush()


def say_json(value: object) -> None:
    """Print plain data as JSON, where what is not finite is null: JSON has no NaN."""
    from relaxify.pages import finite

    say(json.dumps(finite(value), indent=1))


def _stream() -> TextIO:
    return _reports[-1] if _reports else sys.stdout
