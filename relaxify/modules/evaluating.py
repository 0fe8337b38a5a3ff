"""Functions that call modules, which nobody sees: while they run, every module that is called is in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as module_hooks


@contextmanager
def evaluating(f: object = None) -> Iterator[None]:
    """Within, modules that run are in eval mode, also the one whose method f is; afterwards they are as they were."""
    changed: list[nn.Module] = []

    def evaluate(module: nn.Module, *args: Any) -> None:
        if module.training:
            module.training = False
            changed.append(module)

    owner = getattr(f, "__self__", None)
    if isinstance(owner, nn.Module):
        evaluate(owner)
    handle = module_hooks.register_module_forward_pre_hook(evaluate)
    try:
        yield
    finally:
        handle.remove()
        for module in changed:
            module.training = True
