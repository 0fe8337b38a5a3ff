"""Loading a state dict into a relaxed model: all of it, or, if it is refused or interrupted, none.

`load_state_dict` of the model that was relaxed is stood in for. Where that model is a part of another (of a LightningModule,
of what data-parallel training or an average of weights wraps it in) it is not called; then the records of all terms are
checked before the first tensor of the model is written. Loading takes the memory of the model once more while it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from relaxify.interrupts import Before
from relaxify.modules.hanging import structure
from relaxify.relaxation.terms.term import Term

_NAME = "load_state_dict"


class Loading:
    """Stands in for `load_state_dict` of a relaxed model, until that is projected."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = vars(model).get(_NAME)

    def __call__(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        load = self.before or getattr(type(self.model), _NAME).__get__(self.model)
        sketches = [term.sketch for term in self.model.modules() if isinstance(term, Term)]
        # what is assigned is not written to
        values = [] if assign else [*self.model.parameters(), *self.model.buffers()]
        before = Before([*structure(self.model), *sketches], values)
        return before.or_done(lambda: load(state_dict, strict=strict, assign=assign))

    def check(self, model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        """Before anything of the model is loaded: ValueError if a term's record is none, or of another kind of term."""
        for name, term in model.named_modules():
            if isinstance(term, Term) and (state := state_dict.get(f"{prefix}{name}._extra_state")) is not None:
                term.checked(state)


def guard_loading(model: nn.Module) -> None:
    """Let a relaxed model load as this file says."""
    loading = Loading(model)
    setattr(model, _NAME, loading)
    model.register_load_state_dict_pre_hook(loading.check)


def unguard_loading(model: nn.Module) -> None:
    """Let every part of a model that has no terms load as its class says."""
    for module in model.modules():
        loading = vars(module).get(_NAME)
        if isinstance(loading, Loading) and not any(isinstance(part, Term) for part in module.modules()):
            _restore(module, loading)


def _restore(module: nn.Module, loading: Loading) -> None:
    hooks: dict[int, Any] = module._load_state_dict_pre_hooks
    for number in [number for number, wrapped in hooks.items() if getattr(wrapped.hook, "__self__", None) is loading]:
        del hooks[number]
    del vars(module)[_NAME]
    if loading.before is not None:
        vars(module)[_NAME] = loading.before
