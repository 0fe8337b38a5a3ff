"""Linear operations with weights, read off a graph's nodes: which axis of the data is mixed with which parameter.

F.linear, matmul, einsum, tensordot and their kin are brought to one form: y[.., c', ..] = sum_c W[c', c] x[.., c, ..].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._ops import OpOverload

ChannelOrder = Literal["in_out", "out_in"]
"""Which axis of a plain weight matrix comes first."""


@dataclass(frozen=True)
class Contraction:
    """A weight mixes axes of the data: `axes_in` of the data become `axes_out` of the result, counted from the end.

    `grouped` axes come first in both: the weight is another for each of their entries. `order` says which of a plain
    matrix's two axes is the input's (axes of size 1 do not count); None for weights of other shapes.
    """

    data: Any
    weight: Any
    axes_in: tuple[int, ...]
    axes_out: tuple[int, ...]
    order: ChannelOrder | None
    grouped: int = 0

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
) -> Contraction | None:
    """The contraction that a call computes, if exactly one operand is a weight of two or more axes; else None.

    Operands may be nodes or tensors: `is_weight` and `shape` look at them. An added bias is no part of it.
    """
    reader = _ATEN.get(function_name(function)) if isinstance(function, OpOverload) else _READERS.get(function)
    operands = None if reader is None else reader(args, kwargs)
    if operands is None:
        return None
    equation, left, right = operands
    if is_weight(left) == is_weight(right):
        return None
    weight, data = (left, right) if is_weight(left) else (right, left)
    if len(shape(weight)) < 2 or len(shape(data)) < 1:
        return None
    terms = equation(len(shape(left)), len(shape(right)))
    if terms is None:
        return None
    first, second, result = terms
    of_weight, of_data = (first, second) if weight is left else (second, first)
    # an axis of size 1 that is stretched to the data's, or stands beside one of size 1, mixes nothing
    idle = {
        i
        for i, size in zip(of_weight, shape(weight), strict=True)
        if size == 1 and i in of_data and (i in result or shape(data)[of_data.index(i)] > 1)
    }
    mixing = "".join(i for i in of_weight if i not in idle)
    return _mixing(data, weight, of_data, mixing, result)


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
    return Contraction(data, weight, axes_in, axes_out, order, len(grouped))


Equation = Callable[[int, int], tuple[str, str, str] | None]
Operands = tuple[Equation, Any, Any]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _linear(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    x = args[0] if args else kwargs.get("input")
    weight = args[1] if len(args) > 1 else kwargs.get("weight")

    def equation(n_x: int, n_w: int) -> tuple[str, str, str] | None:
        batch = _LETTERS[: n_x - 1]
        return f"{batch}y", "zy", f"{batch}z"

    return equation, x, weight


def _matmul(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    left = args[0]
    right = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))

    def equation(n_left: int, n_right: int) -> tuple[str, str, str]:
        # batches are aligned at the right, as broadcasting does
        batch = _LETTERS[: max(n_left - 2, n_right - 2, 0)]
        row, column = "x" * (n_left > 1), "z" * (n_right > 1)
        first, second = (batch[len(batch) - max(n - 2, 0) :] for n in (n_left, n_right))
        return f"{first}{row}y", f"{second}y{column}", f"{batch}{row}{column}"

    return equation, left, right


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
    if len(operands) != 2 or not isinstance(args[0], str):
        return None
    text = args[0].replace(" ", "")

    def equation(n_left: int, n_right: int) -> tuple[str, str, str] | None:
        if "->" not in text:
            return None
        inputs, result = text.split("->")
        left, right = inputs.split(",")
        spread = _ellipsis(left, n_left), _ellipsis(right, n_right)
        terms = zip((left, right, result), (*spread, max(spread, key=len)), strict=True)
        first, second, third = (term.replace("...", letters) for term, letters in terms)
        return first, second, third

    return equation, operands[0], operands[1]


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
        elif isinstance(dims, tuple | list):
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

    return equation, args[0], args[1] if len(args) > 1 else kwargs.get("b")


_READERS: dict[object, Callable[[tuple[Any, ...], Mapping[str, Any]], Operands | None]] = {
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


def parameters_behind(nodes: Sequence[fx.Node]) -> dict[fx.Node, tuple[str, ...]]:
    """The parameters that a node's value is computed from, for nodes that are computed from parameters and nothing else."""
    behind: dict[fx.Node, tuple[str, ...]] = {}
    for node in nodes:
        if node.op == "get_attr":
            behind[node] = (str(node.target),)
        elif node.op == "call_function" and node.all_input_nodes:
            sources = [behind.get(source) for source in node.all_input_nodes]
            if all(source is not None for source in sources):
                behind[node] = tuple(dict.fromkeys(name for source in sources for name in source or ()))
    return behind
