"""Standing in for a method of the user's LightningModule while it is trained, and leaving it as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

Call = Callable[..., Any]


class StandIn:
    """In place of `module.name` until `end()`: calls `call(own, *args, **kwargs)` with what it stands in for.

    Copies of the module, which averages of weights are, have the method of their own class.

    >>> module = nn.Identity()
    >>> twice = StandIn(module, "forward", lambda own, x: own(x) + own(x))
    >>> module(1)
    2
    >>> twice.end()
    >>> module(1), vars(module).get("forward")
    (1, None)
    """

    def __init__(self, module: nn.Module, name: str, call: Call) -> None:
        self.module, self.name, self.call = module, name, call
        self.before = vars(module).get(name)
        self.own: Call = getattr(module, name)
        self.ended = False
        functools.update_wrapper(self, self.own)
        # Lightning looks through one wrapper at the signature
        self.__wrapped__ = getattr(self.own, "__wrapped__", self.own)
        vars(module)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.own(*args, **kwargs) if self.ended else self.call(self.own, *args, **kwargs)

    def end(self) -> None:
        """Take this away; if others stand in for it by now, with the last of them."""
        self.ended = True
        table = vars(self.module)
        while isinstance(held := table.get(self.name), StandIn) and held.ended:
            table[self.name] = held.before
        if table.get(self.name, self) is None:
            del table[self.name]

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, self.name)
