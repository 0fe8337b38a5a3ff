"""Dormant operations: what they read moves with g, what they give does not, as only part of what they do was seen.

An elementwise function of what moves is still only where it is constant: relu below zero, a saturated sigmoid, a comparison
that came out one way. A fault of few directions hides there, and more elements than usual are needed to meet it.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode

from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.interrupts import under
from relaxify.random_elements import Element
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.twin import Runner

STILL = 1e-9
"""Of a value's size: what changes less does not move."""
MOVING = 1e-6
"""Of a value's size: what changes less may be an invariant with its rounding."""
STEPS = (0.4, 0.2, 0.1, 0.05)
"""Sizes of the elements that lead from one to the next."""
SAMPLED = 512
"""Entries of a value that are compared, beside its sum."""

# fmt: off
_NAMES = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "sigmoid", "logsigmoid",
    "tanh", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "threshold", "softmax", "exp",
    "erf", "erfc", "clamp", "clamp_min", "clamp_max", "clip", "sign", "sgn", "signbit", "heaviside", "floor", "ceil",
    "round", "trunc", "frac", "fix", "pow", "__pow__", "float_power", "maximum", "minimum", "fmax", "fmin", "gt", "lt",
    "ge", "le", "greater", "less", "greater_equal", "less_equal", "__gt__", "__lt__", "__ge__", "__le__", "bool", "long",
    "int", "bucketize", "searchsorted", "argmax", "argmin", "floor_divide", "__floordiv__", "remainder", "__mod__",
    "__bool__", "__int__",
)
# fmt: on
_FUNCTIONS = frozenset(_NAMES) | {f"{name}_" for name in _NAMES}

Sketch = tuple[Tensor, float]


class Dormant:
    """Runs a model, and tells afterwards which operations were dormant in all of the runs, and what might wake them.

    >>> watch = Dormant()
    >>> for x in torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0]):
    ...     _ = watch.running(lambda model, inputs: model(*inputs))(nn.ReLU(), (x,))
    >>> watch.operations
    [0]
    """

    def __init__(self) -> None:
        self.elements: list[Draw | None] = []
        """Of each run the element that had moved its input, as far as they are told."""
        self._runs: list[list[tuple[Sketch, Sketch]]] = []

    def running(self, runner: Runner) -> Runner:
        """The runner, watched."""

        def run(model: nn.Module, inputs: Inputs) -> Any:
            self._runs.append([])
            return under(_Watch(self._runs[-1]), runner, model, inputs)

        return run

    @property
    def operations(self) -> list[int]:
        """The numbers of those that were dormant."""
        first, *others = self._runs or [[]]
        # where the runs took other ways, a branch was seen from both sides
        others = [run for run in others if len(run) == len(first)]

        def is_dormant(number: int, read: Sketch, gave: Sketch) -> bool:
            moved = any(_moves(read, run[number][0], MOVING) for run in others)
            return moved and not any(_moves(gave, run[number][1], least=1.0) for run in others)

        return [number for number, (read, gave) in enumerate(first) if is_dormant(number, read, gave)]

    def nearer(self, group: Group, attempt: int) -> list[Draw]:
        """Elements near those on which what a dormant operation reads was largest, and smallest: one kind of step each."""
        operations, length = self.operations, len(self._runs[0])
        read = operations[attempt % len(operations)]
        known = [(run[read][0][0], g) for run, g in zip(self._runs, self.elements, strict=False) if g and len(run) == length]
        values = torch.stack([entries for entries, _ in known])
        is_moving = values.std(dim=0) > STILL * values.abs().max()
        moving = values[:, is_moving] if is_moving.any() else values
        generator = torch.Generator().manual_seed(3000 + attempt)
        found = []
        for sign, size in itertools.product((1, -1), STEPS):
            best = known[int((sign * moving).amax(dim=1).argmax())][1]
            step = torch.randn(len(group.generators), generator=generator, dtype=torch.float64)
            found.append(Draw(group, (Element(size * step),)) * best)
        return found


class _Watch(TorchFunctionMode):
    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _FUNCTIONS or functorch.peek_interpreter_stack() is not None:
            return func(*args, **kwargs)
        # before the operation, which may be in place
        read = next((_sketch(value) for value in args if _is_dense(value) and value.is_floating_point()), None)
        result = func(*args, **kwargs)
        value = result if isinstance(result, Tensor) else torch.as_tensor(result) if isinstance(result, bool | int) else None
        if read is not None and value is not None and _is_dense(value):
            self.seen.append((read, _sketch(value)))
        return result


def _is_dense(value: Any) -> bool:
    is_plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested and not value.is_quantized
    return is_plain and value.numel() > 0 and not value.is_complex()


def _sketch(value: Tensor) -> Sketch:
    with torch._C.DisableTorchFunction():
        flat = value.detach().reshape(-1)
        sampled = flat[:: -(-len(flat) // SAMPLED)].to(torch.float64, copy=True)
        return sampled, float(flat.sum(dtype=torch.float64))


def _moves(one: Sketch, two: Sketch, part: float = STILL, *, least: float = 0.0) -> bool:
    """Whether two values differ, by more than this part of their size, or of `least` where they are smaller."""
    with torch._C.DisableTorchFunction():
        if one[0].shape != two[0].shape:
            return True
        size = max(float(one[0].abs().max()), least)
        return float((one[0] - two[0]).abs().max()) > part * size or abs(one[1] - two[1]) > part * max(size, abs(one[1]))
