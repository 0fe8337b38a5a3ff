"""Which part of a LightningModule is relaxed, and bringing it there when it is compiled already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

IsRelaxable = Callable[[nn.Module], bool]


class NotThereError(ValueError):
    """The LightningModule has no such part; it may make it later, in `setup` or `configure_model`."""


def part_of(module: nn.Module, at: str | None, is_relaxable: IsRelaxable) -> nn.Module:
    """The part at a path; without one, the only child that can be relaxed, or the whole, if there are several.

    What torch.compile wraps is unwrapped, since it is compiled only when it runs. NotThereError if there is no such part.
    """
    if at is not None:
        return _uncompiled(_at(module, at))
    children = {name: _uncompiled(child) for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(children) == 1:
        return next(iter(children.values()))
    found = [child for child in children.values() if is_relaxable(child)]
    if not children or (not found and not is_relaxable(module)):
        raise NotThereError(
            f"{type(module).__name__} has no part that can be relaxed among {_named(children)}; name it with at=..., "
            "or see relaxify.plan(module, group) for why."
        )
    return found[0] if len(found) == 1 else module


def _at(module: nn.Module, at: str) -> nn.Module:
    for name in at.split(".") if at else []:
        module = _uncompiled(module)
        if not isinstance(child := getattr(module, name, None), nn.Module):
            raise NotThereError(
                f"{type(module).__name__} has no module {name!r} (of at={at!r}); it has {_named(module._modules)}."
            )
        module = child
    return module


def _named(children: object) -> str:
    names = list(children)  # type: ignore[call-overload]
    return ", ".join(map(repr, names)) or "no modules"


def _uncompiled(module: nn.Module) -> nn.Module:
    return module._orig_mod if isinstance(module, torch._dynamo.OptimizedModule) else module


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Within this context nothing of the module is marked by `module.compile()`; what was compiled is forgotten after.

    Compiled code need not look for hooks that come or go.
    """
    marked = [(part, part._compiled_call_impl) for part in module.modules() if part._compiled_call_impl is not None]
    try:
        for part, _ in marked:
            part._compiled_call_impl = None
        yield
    finally:
        for part, call in marked:
            part._compiled_call_impl = call
        torch.compiler.reset()
