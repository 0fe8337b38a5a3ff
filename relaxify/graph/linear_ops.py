"""Linear operations with weights, read off a graph's nodes: which axis of the data is mixed with which parameter.

F.linear, matmul, einsum, tensordot and their kin are brought to one form: y[.., c', ..] = sum_c W[c', c] x[.., c, ..].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from relaxify.sites import ChannelOrder


@dataclass(frozen=True)
class Contraction:
    """A weight mixes one axis of the data: `axis_in` of the data becomes `axis_out` of the result, counted from the end.

    `order` says which of the weight's two axes is the input's.
    """

    data: Any
    weight: Any
    axis_in: int
    axis_out: int
    order: ChannelOrder


def contraction(
    function: object,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    is_weight: Callable[[Any], bool],
    ndim: Callable[[Any], int],
) -> Contraction | None:
    """The contraction that a call computes, if exactly one operand is a weight of two axes; else None.

    Operands may be nodes or tensors: `is_weight` and `ndim` look at them. An added bias is no part of it.
    """
    reader = _READERS.get(function)
    operands = None if reader is None else reader(args, kwargs)
    if operands is None:
        return None
    equation, left, right = operands
    if is_weight(left) == is_weight(right):
        return None
    weight, data = (left, right) if is_weight(left) else (right, left)
    if ndim(weight) != 2 or ndim(data) < 1:
        return None
    terms = equation(ndim(left), ndim(right))
    if terms is None:
        return None
    first, second, result = terms
    of_weight, of_data = (first, second) if weight is left else (second, first)
    return _mixing(data, weight, of_data, of_weight, result)


def _mixing(data: Any, weight: Any, of_data: str, of_weight: str, result: str) -> Contraction | None:
    """Exactly one index of the weight is summed over with the data, the other is new; the data's others pass through."""
    summed, new = set(of_weight) & set(of_data), set(of_weight) - set(of_data)
    if len(summed) != 1 or len(new) != 1 or len(set(of_weight)) != 2:
        return None
    (into,), (out,) = summed, new
    if into in result or out not in result or sorted(result.replace(out, "")) != sorted(of_data.replace(into, "")):
        return None
    axis_in, axis_out = of_data.index(into) - len(of_data), result.index(out) - len(result)
    # the vector axis keeps its place among the others only if these keep their order
    if result.replace(out, "") != of_data.replace(into, ""):
        return None
    return Contraction(data, weight, axis_in, axis_out, "in_out" if of_weight[0] == into else "out_in")


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

    def equation(n_left: int, n_right: int) -> tuple[str, str, str] | None:
        if n_right == 2 and n_left >= 1:
            batch = _LETTERS[: n_left - 1]
            return f"{batch}y", "yz", f"{batch}z"
        if n_left == 2 and n_right >= 3:
            batch = _LETTERS[: n_right - 2]
            return "zy", f"{batch}yx", f"{batch}zx"
        return None

    return equation, left, right


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
        spread_left, extra = _spread(left, n_left), max(n_left - len(left.replace("...", "")), 0)
        spread_right = _spread(right, n_right)
        extra = max(extra if "..." in left else 0, n_right - len(right.replace("...", "")) if "..." in right else 0)
        return spread_left, spread_right, result.replace("...", _ELLIPSIS[len(_ELLIPSIS) - extra :])

    return equation, operands[0], operands[1]


_ELLIPSIS = "αβγδεζηθ"


def _spread(term: str, ndim: int) -> str:
    """A term of an einsum equation with its ellipsis written out, aligned to the right as broadcasting does."""
    extra = ndim - len(term.replace("...", ""))
    return term.replace("...", _ELLIPSIS[len(_ELLIPSIS) - extra :] if extra else "")


def _tensordot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operands | None:
    dims = args[2] if len(args) > 2 else kwargs.get("dims", 2)

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
    torch.mv: lambda args, kwargs: None,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.__rmatmul__: lambda args, kwargs: _matmul((args[1], args[0]), kwargs),
    operator.matmul: _matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    torch.tensordot: _tensordot,
    torch.functional.tensordot: _tensordot,
}


def parameters_behind(nodes: list[fx.Node]) -> dict[fx.Node, tuple[str, ...]]:
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
