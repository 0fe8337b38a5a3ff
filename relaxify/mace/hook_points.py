"""Where MACE's training program is hooked: functions that it calls by name, with the arguments that are read of them.

All of them are looked up before anything runs, so that a version of MACE that has other functions is refused at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TRIED = ("0.3.13", "0.3.16")
"""Versions of mace-torch with which relaxed trainings were run."""

INSTALL = "install MACE with all that its training needs: pip install 'relaxify[mace]'"


@dataclass(frozen=True)
class HookPoint:
    """A function of MACE, or a method of one of its classes, and the names of the arguments that a hook reads."""

    module: str
    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def owner(self) -> Any:
        """The module or class that has the function. AttributeError if there is none."""
        return functools.reduce(getattr, self.name.split(".")[:-1], importlib.import_module(self.module))

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def function(self) -> Callable[..., Any]:
        """AttributeError if MACE has it not."""
        return getattr(self.owner, self.attribute)

    def why_not(self) -> str | None:
        """Why it cannot be hooked, or None."""
        try:
            names = inspect.signature(self.function).parameters
        except AttributeError:
            return f"has no {self}"
        missing = [name for name in self.arguments if name not in names]
        return f"{self} has no argument {missing[0]!r}" if missing else None


@dataclass
class Call:
    """A call of a hooked function: its arguments by name, to be read or replaced, and the function to go on with."""

    function: Callable[..., Any]
    bound: inspect.BoundArguments

    def __getitem__(self, name: str) -> Any:
        return self.bound.arguments[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.bound.arguments[name] = value

    def proceed(self) -> Any:
        return self.function(*self.bound.args, **self.bound.kwargs)


Hook = Callable[[Call], Any]


def training_program() -> Any:
    """The module of MACE's training program. ValueError, one sentence, if it cannot be imported."""
    try:
        import mace.cli.run_train
    except ImportError as error:
        raise ValueError(f"MACE cannot be imported ({error}); {INSTALL}.") from error
    return mace.cli.run_train


@contextlib.contextmanager
def hooked(hooks: Mapping[HookPoint, Hook]) -> Iterator[None]:
    """Within this context each function is called through its hook.

    ValueError, before anything is hooked, that names what this version of MACE lacks and which versions are tried.
    """
    if lacks := [reason for point in hooks if (reason := point.why_not()) is not None]:
        version = importlib.metadata.version("mace-torch")
        raise ValueError(
            f"MACE {version} {lacks[0]}, where relaxed training is hooked; use a version that is tried: {', '.join(TRIED)}."
        )
    with contextlib.ExitStack() as stack:
        for point, hook in hooks.items():
            stack.enter_context(_in_place_of(point, hook))
        yield


@contextlib.contextmanager
def _in_place_of(point: HookPoint, hook: Hook) -> Iterator[None]:
    owner, attribute, function = point.owner, point.attribute, point.function
    # of a static method, what is looked up is the function
    before = vars(owner)[attribute]
    signature = inspect.signature(function)

    @functools.wraps(function)
    def through_hook(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return hook(Call(function, bound))

    setattr(owner, attribute, staticmethod(through_hook) if isinstance(before, staticmethod) else through_hook)
    try:
        yield
    finally:
        setattr(owner, attribute, before)
