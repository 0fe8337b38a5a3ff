"""Linear operations with weights, read off a graph's nodes: which axis of the data is mixed with which parameter.

F.linear, matmul, einsum, tensordot and their kin are brought to one form: y[.., c', ..] = sum_c W[c', c] x[.., c, ..].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

ChannelOrder = Literal["in_out", "out_in"]
"""Which axis of a plain weight matrix comes first."""


@dataclass(frozen=True)
class Contraction:
    """A weight mixes axes of the data: `axes_in` of the data become `axes_out` of the result, counted from the end.

    `grouped` axes come first in both: the weight is another for each of their entries. `order` says which of a plain
    matrix's two axes is the input's (axes of size 1 do not count); None for weights of other shapes. `letters` are those
    of these axes in the equation of the call.
    """

    data: Any
    weight: Any
    axes_in: tuple[int, ...]
    axes_out: tuple[int, ...]
    order: ChannelOrder | None
    grouped: int = 0
    letters: tuple[str, str] = field(default=("", ""), compare=False)

    def place(self, axis: int, n_in: int, n_out: int) -> int:
        """Where an axis of the data that is not summed over stands in the result, counted from the end."""
        kept = _others(n_in, self.axes_in[self.grouped :])
        left = _others(n_out, self.axes_out[self.grouped :])
        return left[kept.index(axis % n_in)] - n_out


def _others(ndim: int, axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(ndim) if axis - ndim not in axes]


def contraction(
    function: object,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    is_weight: Callable[[Any], bool],
    shape: Callable[[Any], tuple[int, ...]],
    is_fixed: Callable[[Any], bool] | None = None,
) -> Contraction | None:
    """The contraction that a call computes, if all operands but one are weights, or else `is_fixed`; else None.

    Operands may be nodes or tensors: `is_weight`, `shape` and `is_fixed` look at them. An added bias is no part of it.
    """
    read = operands_of(function, args, kwargs, shape)
    if read is None:
        return None
    operands, terms = read
    shapes = [shape(operand) for operand in operands]
    data, weights = _roles(operands, is_weight, is_fixed or is_weight)
    if len(data) != 1 or not weights or not shapes[data[0]] or all(len(shapes[k]) < 2 for k in weights):
        return None
    *of_operands, result = terms
    of_data, shape_of_data = of_operands[data[0]], shapes[data[0]]
    sizes: dict[str, int] = {}
    for k in (k for k in range(len(operands)) if k != data[0]):
        # a sum over what only weights have is no matter of the data's
        known = {i: n for i, n in zip(of_operands[k], shapes[k], strict=True) if i in of_data or i in result}
        sizes |= {i: max(n, sizes.get(i, 1)) for i, n in known.items()}
    # an axis of size 1 that is stretched to the data's, or stands beside one of size 1, mixes nothing
    mixing = [
        i
        for i, size in sizes.items()
        if size > 1 or i not in of_data or (i not in result and shape_of_data[of_data.index(i)] == 1)
    ]
    found = _mixing(operands[data[0]], operands[weights[0]], of_data, "".join(mixing), result)
    return replace(found, order=None) if found is not None and len(operands) > 2 else found


def operands_of(
    function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any], shape: Callable[[Any], tuple[int, ...]]
) -> tuple[tuple[Any, ...], tuple[str, ...]] | None:
    """What a call multiplies and sums, with a letter for each axis of each operand, and at last of the result."""
    reader = _reader(function)
    read = None if reader is None else reader(args, kwargs)
    if read is None:
        return None
    equation, operands = read
    terms = equation(*(len(shape(operand)) for operand in operands))
    return None if terms is None else (operands, terms)


def _reader(function: object) -> Reader | None:
    return _ATEN.get(function_name(function)) if isinstance(function, OpOverload) else _READERS.get(function)


def _roles(
    operands: Sequence[Any], is_weight: Callable[[Any], bool], is_fixed: Callable[[Any], bool]
) -> tuple[list[int], list[int]]:
    """Which of the operands are data, and which weights."""
    weights = [k for k, operand in enumerate(operands) if is_weight(operand)]
    data = [k for k, operand in enumerate(operands) if k not in weights and not is_fixed(operand)]
    return data, weights


def _mixing(data: Any, weight: Any, of_data: str, of_weight: str, result: str) -> Contraction | None:
    """Indices of the weight are summed over with the data; its others are new, or shared by data and result."""
    summed = "".join(i for i in of_weight if i in of_data and i not in result)
    grouped = "".join(i for i in of_weight if i in of_data and i in result)
    new = "".join(i for i in of_weight if i not in of_data)
    if not summed or not new or len(set(of_weight)) != len(of_weight) or not set(new) <= set(result):
        return None
    # the vector axis keeps its place among the others only if these keep their order
    if [i for i in result if i not in new] != [i for i in of_data if i not in summed]:
        return None
    order: ChannelOrder | None = None
    if len(of_weight) == 2 and not grouped and len(summed) == 1:
        order = "in_out" if of_weight[0] == summed else "out_in"
    axes_in = tuple(of_data.index(i) - len(of_data) for i in grouped + summed)
    axes_out = tuple(result.index(i) - len(result) for i in grouped + new)
    return Contraction(data, weight, axes_in, axes_out, order, len(grouped), (grouped + summed, grouped + new))


Equation = Callable[..., tuple[str, ...] | None]
"""From the operands' numbers of axes to a letter for each axis of theirs, and of the result."""
Operands = tuple[Equation, tuple[Any, ...]]
Reader = Callable[[tuple[Any, ...], Mapping[str, Any]], Operands | None]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _linear(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    x = args[0] if args else kwargs.get("input")
    weight = args[1] if len(args) > 1 else kwargs.get("weight")

    def equation(n_x: int, n_w: int) -> tuple[str, str, str] | None:
        batch = _LETTERS[: n_x - 1]
        return f"{batch}y", "zy", f"{batch}z"

    return equation, (x, weight)


def _matmul(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    left = args[0]
    right = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))

    def equation(n_left: int, n_right: int) -> tuple[str, str, str]:
        # batches are aligned at the right, as broadcasting does
        batch = _LETTERS[: max(n_left - 2, n_right - 2, 0)]
        row, column = "x" * (n_left > 1), "z" * (n_right > 1)
        first, second = (batch[len(batch) - max(n - 2, 0) :] for n in (n_left, n_right))
        return f"{first}{row}y", f"{second}y{column}", f"{batch}{row}{column}"

    return equation, (left, right)


def function_name(function: object) -> str:
    """A function's name; of an operator as torch.export writes it (aten.sum.dim_IntList), that of the function (sum).

    >>> function_name(torch.ops.aten.linear.default), function_name(F.linear)
    ('linear', 'linear')
    """
    if isinstance(function, OpOverload):
        return str(function._schema.name.rpartition("::")[2])
    return str(getattr(function, "__name__", function))


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    return _matmul(args[1:], kwargs) if len(args) > 2 else None


def _einsum(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if len(operands) < 2 or not isinstance(args[0], str):
        return None
    text = args[0].replace(" ", "")

    def equation(*ndims: int) -> tuple[str, ...] | None:
        if "->" not in text:
            return None
        inputs, result = text.split("->")
        terms = inputs.split(",")
        spread = [_ellipsis(term, ndim) for term, ndim in zip(terms, ndims, strict=True)]
        letters = (*spread, max(spread, key=len))
        return tuple(term.replace("...", each) for term, each in zip((*terms, result), letters, strict=True))

    return equation, tuple(operands)


def _ellipsis(term: str, ndim: int) -> str:
    """What "..." stands for in a term of an einsum equation, aligned to the right as broadcasting does."""
    letters = "αβγδεζηθ"
    return letters[len(letters) - ndim + len(term.replace("...", "")) :] if "..." in term else ""


def _tensordot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    dims = args[2] if len(args) > 2 else kwargs.get("dims", 2)

    return _paired(args, kwargs, dims)


def _aten_tensordot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    return _paired(args, kwargs, (args[2], args[3])) if len(args) > 3 else None


def _paired(args: tuple[Any, ...], kwargs: Mapping[str, Any], dims: Any) -> Operands:
    def equation(n_left: int, n_right: int) -> tuple[str, str, str] | None:
        if isinstance(dims, int):
            pairs = [(n_left - dims + i, i) for i in range(dims)]
        elif isinstance(dims, tuple | list) and n_left and n_right:
            pairs = [(a % n_left, b % n_right) for a, b in zip(*dims, strict=True)]
        else:
            return None
        left = list(_LETTERS[:n_left])
        right = list(_LETTERS[n_left : n_left + n_right])
        for a, b in pairs:
            right[b] = left[a]
        used = {left[a] for a, _ in pairs}
        result = [letter for letter in (*left, *right) if letter not in used]
        return "".join(left), "".join(right), "".join(result)

    return equation, (args[0], args[1] if len(args) > 1 else kwargs.get("b"))


_READERS: dict[object, Reader] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    torch.bmm: _matmul,
    Tensor.bmm: _matmul,
    torch.mv: lambda args, kwargs: None,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.__rmatmul__: lambda args, kwargs: _matmul((args[1], args[0]), kwargs),
    operator.matmul: _matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    torch.baddbmm: _addmm,
    Tensor.baddbmm: _addmm,
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    torch.tensordot: _tensordot,
    torch.functional.tensordot: _tensordot,
}

_ATEN = {function_name(function): reader for function, reader in _READERS.items()} | {"tensordot": _aten_tensordot}
"""By the names of the operators that torch.export writes."""

MIXING = frozenset(map(function_name, _READERS))
"""The names of the functions and methods that are read."""


FACTORIES = frozenset(["arange", "eye", "linspace", "tril_indices", "triu_indices"])
"""Functions that make the same tensor in each run; zeros and ones are where a state may start, so not these."""
