"""Watch: what the operations of one run read and gave, as far as they may do one thing or another by what they read.

Elementwise functions that are constant or the identity in part, or have no value in part, what makes whole numbers and truth
values of others, what takes numbers out of torch's sight, and TorchScript that branches on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from relaxify.graph.inputs import Inputs
from relaxify.graph.script_calls import Scripted, script_calls
from relaxify.graph.storages import tensors_in, unwrapped
from relaxify.interrupts import under
from relaxify.verdicts.twin import Runner

STILL = 1e-9
"""Of a value's size: what changes less does not move."""
MOVING = 1e-6
"""Of a value's size: what changes less may be an invariant with its rounding."""
SAMPLED = 512
"""Entries of a value that are compared, beside its sum."""

# fmt: off
_PASSING_ON = (
    "relu", "relu6", "leaky_relu", "elu", "celu", "gelu", "silu", "mish", "softplus", "hardtanh", "hardswish", "hardshrink",
    "threshold", "_threshold", "clamp", "clamp_min", "clamp_max", "clip", "maximum", "minimum", "fmax", "fmin", "max", "min",
    "remainder", "__mod__", "fmod", "abs", "__abs__", "absolute",
)
_NAMES = (
    "selu", "sigmoid", "logsigmoid", "log_sigmoid", "tanh", "hardsigmoid", "softshrink", "tanhshrink", "softmax", "exp",
    "erf", "erfc", "sign", "sgn", "signbit", "heaviside", "floor", "ceil", "round", "trunc", "frac", "fix", "pow", "__pow__",
    "float_power", "bool", "long", "int", "argmax", "argmin", "floor_divide", "__floordiv__", "__bool__", "__int__", "any",
    "all", "allclose", "histc",
)
_LEAVING = frozenset(["item", "tolist", "numpy", "__float__", "__array__", "__complex__", "__dlpack__"])
"""What takes numbers out of torch's sight."""
_PARTIAL = frozenset(name + end for end in ("", "_") for name in [
    "sqrt", "rsqrt", "log", "log2", "log10", "log1p", "logit", "acos", "arccos", "asin", "arcsin", "acosh", "arccosh",
    "atanh", "arctanh", "erfinv", "xlogy",
])
"""What has no value, NaN, for part of the numbers."""
_POWERS = frozenset(["pow", "__pow__", "pow_", "__ipow__", "float_power"])
_EXACT = frozenset([
    "eq", "__eq__", "ne", "__ne__", "isnan", "isfinite", "isinf", "nonzero", "count_nonzero", "argwhere", "equal",
])
"""Comparisons that come out the other way nowhere, or almost, and what makes whole numbers of a shape alone."""
# fmt: on
_IN_PLACE = frozenset(f"{name}_" for name in (*_PASSING_ON, *_NAMES))
_IDENTITIES = frozenset(_PASSING_ON) | frozenset(f"{name}_" for name in _PASSING_ON)
_FUNCTIONS = frozenset(_PASSING_ON) | frozenset(_NAMES) | _IN_PLACE | _LEAVING

_SCRIPTED = frozenset(_PASSING_ON) - {"max", "min"} | frozenset(_NAMES) | {"gt", "lt", "ge", "le"}
_BRANCHES = frozenset(["Bool", "is_nonzero", "item", "Float", "FloatImplicit"])
"""What TorchScript branches on; sizes, on which it does too, are no tensors."""

Sketch = tuple[Tensor, float]
Harmless = Callable[[Tensor, Tensor], bool]
"""Whether what an operation gave for something that it reads is no cause to look further."""


@dataclass(frozen=True)
class Seen:
    """What an operation read, tensor by tensor, and gave; None if that is out of sight.

    `is_elementwise`: it may give what it reads. `is_partial`: it gives NaN for other numbers, but gave none. `reach`:
    lengths of what it read, and whether it leaves alone whatever is as long, or has a value for it.
    """

    read: tuple[Sketch, ...]
    gave: Sketch | None
    is_elementwise: bool = False
    is_partial: bool = False
    reach: tuple[tuple[Sketch, bool], ...] = ()

    def passes_on(self, number: int) -> bool:
        """Whether it gave what it read, or a number for whatever it read."""
        if self.is_partial:
            return True
        return self.is_elementwise and self.gave is not None and not _moves(self.read[number], self.gave)

    def moves(self, number: int, other: Seen) -> bool:
        """Whether it read another value in another run."""
        return number < len(other.read) and _moves(self.read[number], other.read[number], MOVING)

    def gives_another(self, other: Seen) -> bool:
        return self.gave is not None and other.gave is not None and _moves(self.gave, other.gave, least=1.0)

    def is_within(self, number: int, others: Sequence[Seen]) -> bool:
        """Whether these lengths are the same in all runs, and whatever is as long is left alone."""
        (lengths, is_harmless), *same = (each.reach[number] for each in (self, *others) if number < len(each.reach))
        return is_harmless and len(same) == len(others) and not any(_moves(lengths, each, MOVING) for each, _ in same)


def watched(watch: Watch, runner: Runner, model: nn.Module, inputs: Inputs) -> Any:
    """What the runner returns."""
    with _scripts_seen_by(watch):
        return under(watch, runner, model, inputs)


class Watch(TorchFunctionMode):
    """Adds to `seen`; of vectors, on axes of this `size` (if it is not 0), a group keeps the lengths."""

    def __init__(self, seen: list[Seen], size: int = 0) -> None:
        super().__init__()
        self.seen = seen
        self.size = size

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        is_partial = name in _PARTIAL or (name in _POWERS and _is_root(*args[1:], *kwargs.values()))
        is_known = is_partial or name in _FUNCTIONS or kwargs.get("rounding_mode") is not None
        # before the operation, which may be in place
        read = _sketches(args) if is_known else ()
        result = func(*args, **kwargs)
        if is_known:
            self.note(read, None if name in _LEAVING else result)
            if (is_partial or name in _IDENTITIES) and self.seen and self.seen[-1].read is read:
                self.seen[-1] = self._told_of_values(self.seen[-1], func, args, kwargs, is_partial=is_partial)
        elif _is_whole(result) and not (name in _EXACT or name.endswith("_like") or name.startswith("new_")):
            # beside whole numbers the others may tell a shape alone, as in index.expand_as(x)
            self.note(_sketches(args[:1] if args and _is_index(args[0]) else args), result)
        return result

    def _told_of_values(
        self, seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_partial: bool
    ) -> Seen:
        """The same, and what is known of other values than those that it read."""
        if seen.gave is None or (is_partial and math.isnan(seen.gave[1])):
            return seen
        is_harmless, has_rest = (_has_values, True) if is_partial else (_gives_on, not _moves(seen.read[0], seen.gave))
        reach = self._reach(func, args, kwargs, is_harmless) if self.size and has_rest else ()
        return replace(seen, is_elementwise=not is_partial, is_partial=is_partial, reach=reach)

    def _reach(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_harmless: Harmless
    ) -> tuple[tuple[Sketch, bool], ...]:
        """The lengths of what was read, along axes of vectors' size, and of the whole; see `Seen`."""
        if functorch.peek_interpreter_stack() is not None or not isinstance(args[0], Tensor) or "out" in kwargs:
            return ()
        if _is_whole(args[0]):
            return ()
        with torch._C.DisableTorchFunction(), torch.no_grad():
            value = args[0].detach()
            axes = [(axis,) for axis in range(value.ndim) if value.shape[axis] == self.size]
            every = (*axes, tuple(range(value.ndim)))
            return tuple(self._reached(func, value, each, args[1:], kwargs, is_harmless) for each in every)

    @staticmethod
    def _reached(
        func: Any,
        value: Tensor,
        axes: tuple[int, ...],
        others: tuple[Any, ...],
        kwargs: dict[str, Any],
        is_harmless: Harmless,
    ) -> tuple[Sketch, bool]:
        lengths = torch.linalg.vector_norm(value, dim=axes, keepdim=True) if axes else value.abs()
        probes = [(sign * lengths).expand_as(value).clone() for sign in (1, -1)]
        return _sketch(lengths), all(is_harmless(each, func(each.clone(), *others, **kwargs)) for each in probes)

    def note(self, read: tuple[Sketch, ...], result: Any) -> None:
        gave = torch.as_tensor(result) if isinstance(result, bool | int) else result
        if read and (gave is None or (isinstance(gave, Tensor) and _is_dense(gave))):
            self.seen.append(Seen(read, None if gave is None else _sketch(gave)))


@contextmanager
def _scripts_seen_by(watch: Watch) -> Iterator[None]:
    """Note what is read by TorchScript in which something may come out one way or the other."""

    def enter(module: nn.Module, args: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule) and _may_branch(module.inlined_graph):
            watch.note(_sketches(tensors_in(args)), None)

    def call(function: Scripted, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _may_branch(function.graph):
            watch.note(_sketches(tensors_in((args, kwargs))), None)
        return function(*args, **kwargs)

    handle = module_hooks.register_module_forward_pre_hook(enter)
    try:
        with script_calls(call):
            yield
    finally:
        handle.remove()


def _may_branch(graph: Any) -> bool:
    return any(node.kind().removeprefix("aten::") in _SCRIPTED | _BRANCHES for node in graph.nodes())


def _gives_on(read: Tensor, gave: Tensor) -> bool:
    return not _moves(_sketch(read), _sketch(gave))


def _has_values(read: Tensor, gave: Tensor) -> bool:
    return not math.isnan(_sketch(gave)[1])


def _is_root(*exponents: Any) -> bool:
    """Whether a power is of no whole number, and so has no value of what is negative."""
    return any(isinstance(exponent, float) and not exponent.is_integer() for exponent in exponents)


def _is_whole(value: Any) -> bool:
    """Whether this is a tensor of whole numbers or truth values."""
    with torch._C.DisableTorchFunction():
        return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())


def _is_index(value: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return _is_whole(value) and value.dtype != torch.bool


def _is_dense(value: Any) -> bool:
    with torch._C.DisableTorchFunction():
        is_plain = value.layout is torch.strided and not (value.is_nested or value.is_quantized or value.is_meta)
        return bool(is_plain and value.numel() > 0 and not value.is_complex())


def _sketches(values: Sequence[Any]) -> tuple[Sketch, ...]:
    return tuple(_sketch(value) for value in values if isinstance(value, Tensor) and _is_dense(value))


def _sketch(value: Tensor) -> Sketch:
    with torch._C.DisableTorchFunction(), _as_it_is():
        flat = unwrapped(value).detach().reshape(-1)
        sampled = flat[:: -(-len(flat) // SAMPLED)].to(torch.float64, copy=True)
        return sampled, float(flat.sum(dtype=torch.float64))


def _as_it_is() -> AbstractContextManager[Any]:
    """Without the transforms of torch.func, if any is at work."""
    is_transformed = functorch.peek_interpreter_stack() is not None
    return temporarily_clear_interpreter_stack() if is_transformed else nullcontext()


def _moves(one: Sketch, two: Sketch, part: float = STILL, *, least: float = 0.0) -> bool:
    """Whether two values differ, by more than this part of their size, or of `least` where they are smaller."""
    with torch._C.DisableTorchFunction():
        if one[0].shape != two[0].shape:
            return True
        size = max(float(one[0].abs().max()), least)
        return float((one[0] - two[0]).abs().max()) > part * size or abs(one[1] - two[1]) > part * max(size, abs(one[1]))
