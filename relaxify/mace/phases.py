"""MACE's models stay in train() from their making to their saving; whether they train, each call tells them.

So the terms, which act in train(), are held back in the calls that do not train: validation sees the projected model.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from relaxify.relaxation.terms.term import terms_of

ARGUMENT = "training"


def follow_phases(model: nn.Module) -> Callable[[], None]:
    """Let a relaxed model's terms act in calls with `training=True` alone, until the result is called.

    ValueError if its forward has no such argument.
    """
    names = list(inspect.signature(type(model).forward).parameters)
    if ARGUMENT not in names:
        raise ValueError(f"MACE's {type(model).__name__} is not told by its caller whether it trains; train it plainly.")
    # without self
    position = names.index(ARGUMENT) - 1

    def enter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trains = args[position] if len(args) > position else kwargs.get(ARGUMENT, False)
        _force(model, None if trains else False)

    with contextlib.ExitStack() as handles:
        for handle in (
            model.register_forward_pre_hook(enter, with_kwargs=True),
            model.register_forward_hook(_leave, always_call=True),
        ):
            handles.callback(handle.remove)
        return handles.pop_all().close


def _leave(model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    _force(model, None)


def _force(model: nn.Module, value: bool | None) -> None:
    for term in terms_of(model).values():
        term.forced = value
