"""The model as it is: a copy that computes what the user's model computes, in float64 or in its own precision.

It keeps hooks, parametrisations, patched forwards, complex and shared parameters, and loses relaxify's own terms alone. Each
run starts from the state that the user's model is in, with the same random numbers; nothing of the user's runs or changes.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.graph.inputs import Inputs, call
from relaxify.sites import CHILD, HOLDER
from relaxify.verdicts.copies import duplicate
from relaxify.verdicts.precision import InDouble, widened
from relaxify.verdicts.state import State, seeded

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_HOOK_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


class NotRunError(ValueError):
    """A copy does not run on the inputs in its precision."""


class Twin:
    """A copy of a model to judge. `precision` is what it computes in: as far as seen, after a run."""

    def __init__(self, model: nn.Module, *, training: bool = False, double: bool = True) -> None:
        self.double = double
        self.training = training
        self.model: nn.Module = duplicate(model, self.cast)
        self.own = own_precision(model)
        self.lowest = torch.float64 if double else self.own
        self.runs = 0
        without_terms(self.model)
        self.settle()

    def settle(self) -> None:
        """Take the copy's parameters as they are now for what every run starts from."""
        if self.double:
            # what TorchScript keeps to itself
            self.model._apply(widened)
        with torch.no_grad(), suppress(NotImplementedError):
            # layers keep what they computed of their parameters until they leave eval mode; exported graphs have no mode
            self.model.train().train(self.training)
        self._state = State(self.model)

    def cast(self, tensor: Tensor) -> Tensor:
        return widened(tensor) if self.double else tensor.cpu()

    def inputs(self, given: Inputs) -> Inputs:
        """A copy of inputs in the copy's precision."""
        copied: Inputs = duplicate(given, self.cast, "the input")
        return copied

    def run(self, inputs: Inputs) -> Any:
        """The output for inputs that `inputs` has made, which stay as they are; NotRunError if there is none."""
        self._state.restore()
        self.runs += 1
        mode = InDouble() if self.double else None
        try:
            with seeded(), torch.inference_mode(False), torch.enable_grad(), mode or nullcontext():
                return call(self.model, duplicate(inputs, lambda tensor: tensor, "the input"))
        except Exception as error:
            precision = "float64" if self.double else str(self.own).removeprefix("torch.")
            raise NotRunError(
                f"the model does not run on the example inputs in {precision} ({type(error).__name__}: {error}); "
                "pass the arguments of its forward."
            ) from error
        finally:
            if mode is not None:
                self.lowest = max(self.lowest, mode.lowest, key=lambda dtype: torch.finfo(dtype).eps)


def own_precision(model: nn.Module) -> torch.dtype:
    """The precision of a model's first parameter, or of new tensors if it has none."""
    floating = (p.dtype.to_real() for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(floating, torch.get_default_dtype())


def without_terms(model: nn.Module) -> None:
    """Take relaxify's terms off a copy: the model is judged without them."""
    for module in list(model.modules()):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        _without_hooks(module)
        if _is_term(getattr(vars(module).get("forward"), "__self__", None)):
            del module.forward
        for name, child in list(module._modules.items()):
            if name == CHILD and _is_term(child):
                if callable(settle := getattr(child, "settle", None)):
                    settle(module)
                del module._modules[name]
            elif name.startswith(HOLDER) and child is not None and _is_term(child._modules.get(CHILD)):
                del module._modules[name]


def _without_hooks(module: nn.Module) -> None:
    for hooks in (getattr(module, name) for name in _HOOKS):
        for key in [key for key, hook in hooks.items() if _is_term(getattr(hook, "__self__", None))]:
            del hooks[key]
            for flags in (getattr(module, name, {}) for name in _HOOK_FLAGS):
                flags.pop(key, None)


def _is_term(value: Any) -> bool:
    return type(value).__module__.startswith("relaxify.") and hasattr(value, "theta")
