"""The model as it is: a copy that computes what the user's model computes, in float64 or in its own precision.

It keeps hooks, parametrisations, patched forwards, complex and shared parameters, and loses relaxify's own terms alone. Each
run starts from the state that the user's model is in, with the same random numbers; nothing of the user's runs or changes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relaxify.graph.inputs import Inputs, call, not_run
from relaxify.graph.precision import InDouble, widened
from relaxify.interrupts import under
from relaxify.modules.copies import duplicate
from relaxify.modules.hanging import take_off_all
from relaxify.verdicts.state import State, seeded

Runner = Callable[[nn.Module, Inputs], Any]
"""What runs a model on inputs: calls it, or records the call."""


class Twin:
    """A copy of a model to judge, in float64 if `double`, and without its terms unless `terms`.

    `prepare` is called with the copy before anything runs; `lowest` is the lowest precision in which it was seen to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        training: bool = False,
        double: bool = True,
        terms: bool = False,
        prepare: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.double = double
        self.training = training
        self.model: nn.Module = duplicate(model, self.cast)
        self.own = own_precision(model)
        self.lowest = torch.float64 if double else self.own
        self.runs = 0
        if not terms:
            take_off_all(self.model)
        if prepare is not None:
            prepare(self.model)
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
        self._parameters = self._count()

    def _count(self) -> int:
        return sum(1 for _ in self.model.parameters())

    def cast(self, tensor: Tensor) -> Tensor:
        return widened(tensor) if self.double else tensor.cpu()

    def inputs(self, given: Inputs) -> Inputs:
        """A copy of inputs in the copy's precision."""
        copied: Inputs = duplicate(given, self.cast, "the input")
        return copied

    def restore(self) -> None:
        """Set the copy's state to what every run starts from."""
        self._state.restore()

    def run(self, inputs: Inputs, runner: Runner = call, *, seed: int = 0) -> Any:
        """The output for inputs that `inputs` has made, which stay as they are; InputsError if there is none.

        Each `seed` but 0 gives other random numbers, those that the model keeps generators of included.
        """
        self.runs += 1
        mode = InDouble() if self.double else None
        try:
            output = self._run(
                inputs, runner if mode is None else lambda model, given: under(mode, runner, model, given), seed
            )
            if self._count() != self._parameters:
                # layers that a model makes in its first run are there in all others
                self.settle()
            return output
        except Exception as error:
            precision = "float64" if self.double else str(self.own).removeprefix("torch.")
            raise not_run(error, functools.partial(self._run, inputs, call, seed), precision) from error
        finally:
            if mode is not None:
                self.lowest = max(self.lowest, mode.lowest, key=lambda dtype: torch.finfo(dtype).eps)

    def _run(self, inputs: Inputs, runner: Runner, seed: int) -> Any:
        self.restore()
        if seed:
            self._state.reseed(seed)
        with _eagerly(), seeded(seed), torch.inference_mode(False), torch.enable_grad():
            return runner(self.model, duplicate(inputs, lambda tensor: tensor, "the input"))

    def rough_runs(self, inputs: Inputs) -> Iterator[Any]:
        """Outputs with constants that differ by about what they were rounded by; none of a model that has none."""
        self.restore()
        constants, generator = _constants(self.model), torch.Generator().manual_seed(3)
        before = [each.detach().clone() for each in constants]
        try:
            for each in constants:
                noise = torch.rand(each.shape, generator=generator, dtype=torch.float64) - 0.5
                each.data.mul_((1 + torch.finfo(self.own).eps * noise).to(each.dtype))
            self.settle()
            yield from [self.run(inputs)] if constants else []
        finally:
            for each, value in zip(constants, before, strict=True):
                each.data.copy_(value)
            self.settle()


def _under(mode: TorchFunctionMode, runner: Runner) -> Runner:
    return lambda model, inputs: under(mode, runner, model, inputs)


def _constants(model: nn.Module) -> list[Tensor]:
    """What is not trained: Clebsch-Gordan coefficients, bases of kernels."""
    frozen = (parameter for parameter in model.parameters() if not parameter.requires_grad)
    return [each for each in (*model.buffers(), *frozen) if each.is_floating_point() or each.is_complex()]


def _eagerly() -> AbstractContextManager[Any]:
    """Without torch.compile, which would compile anew for every way in which a copy runs."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None or "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = set_stance("force_eager")
    return stance


def own_precision(model: nn.Module) -> torch.dtype:
    """The precision of a model's first parameter, or of new tensors if it has none."""
    floating = (p.dtype.to_real() for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(floating, torch.get_default_dtype())
