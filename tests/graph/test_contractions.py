"""Every way to write a linear map on one axis is brought to one form, which computes what the call computes."""

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import random
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from relaxify.graph.contractions import Contraction, contraction
from relaxify.sites import Features

A, B, C, D = 2, 5, 3, 4
X2, X3, X4 = random(A, B), random(A, C, B), random(A, C, D, B)
W = random(7, B, seed=1)

CALLS = {
    "linear": (F.linear, (X3, W)),
    "linear with bias": (F.linear, (X3, W, random(7))),
    "matmul right": (torch.matmul, (X4, W.mT.contiguous())),
    "operator": (operator.matmul, (X2, W.mT.contiguous())),
    "method": (Tensor.matmul, (X3, W.mT.contiguous())),
    "mm": (torch.mm, (X2, W.mT.contiguous())),
    "addmm": (torch.addmm, (random(7), X2, W.mT.contiguous())),
    "matmul left": (torch.matmul, (W, X4.mT.contiguous())),
    "einsum last": (torch.einsum, ("...b,zb->...z", X4, W)),
    "einsum middle": (torch.einsum, ("abcd,zb->azcd", X4.movedim(-1, 1), W)),
    "einsum weight first": (torch.einsum, ("oi, nic -> noc", W, X3.mT)),
    "einsum ellipsis after": (torch.einsum, ("ij,...jk->...ik", W, X4.mT)),
    "tensordot": (torch.tensordot, (X3, W, ([2], [1]))),
    "tensordot by count": (torch.tensordot, (X3, W.mT, 1)),
    "exported linear": (torch.ops.aten.linear.default, (X3, W, random(7))),
    "exported addmm": (torch.ops.aten.addmm.default, (random(7), X2, W.mT.contiguous())),
    "exported einsum": (torch.ops.aten.einsum.default, ("abcd,zb->azcd", [X4.movedim(-1, 1), W])),
    "exported tensordot": (torch.ops.aten.tensordot.default, (X3, W, [2], [1])),
    "baddbmm": (torch.baddbmm, (random(7), X3, W.mT.expand(A, B, 7))),
}
GROUPED = random(C, B, 7)
SHAPED = {
    "bmm": (torch.bmm, (random(C, A, B), GROUPED), GROUPED),
    "batched matmul": (torch.matmul, (random(D, C, A, B), GROUPED), GROUPED),
    "stretched batch": (torch.matmul, (random(C, A, B), W.mT[None]), None),
    "two new axes": (torch.einsum, ("abc,meb->amec", random(A, B, C), random(6, 7, B)), None),
    "two summed axes": (torch.einsum, ("abc,zbc->az", random(A, B, C), random(7, B, C)), None),
    "group of heads": (torch.einsum, ("nhic,hio->nhoc", random(A, C, B, D), GROUPED), GROUPED),
    "one matrix, many heads": (torch.matmul, (X2, GROUPED), None),
}


def read(function: object, args: tuple[object, ...]) -> Contraction | None:
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    weights = {id(value) for value in tensors if value.ndim > 1 and 7 in value.shape}

    def shape(x: Tensor) -> tuple[int, ...]:
        return tuple(1 if step == 0 else size for size, step in zip(x.shape, x.stride(), strict=True))

    return contraction(function, args, {}, lambda x: id(x) in weights, shape)


@pytest.mark.parametrize("name", CALLS)
def test_the_form_computes_what_the_call_computes(name: str) -> None:
    function, args = CALLS[name]
    found = read(function, args)
    assert found is not None
    weight = found.weight if found.order == "out_in" else found.weight.mT
    weight = weight[0] if weight.ndim > 2 else weight
    rows = found.data.movedim(*found.axes_in, -1) @ weight.mT
    result = rows.movedim(-1, *found.axes_out)
    bias = function(*tree_map(lambda a: torch.zeros_like(a) if a is found.data else a, args))
    torch.testing.assert_close(result, function(*args) - bias)


@pytest.mark.parametrize("name", SHAPED)
def test_weights_of_any_shape_are_linear_maps_between_the_axes_they_name(name: str) -> None:
    """On those axes the call is one matrix, whatever the others are; on an axis that it leaves alone it does nothing."""
    function, args, grouped = SHAPED[name]
    weight = max((value for value in args if isinstance(value, Tensor)), key=lambda value: 7 in value.shape)
    found = contraction(function, args, {}, lambda x: x is weight, lambda x: tuple(x.shape))
    assert found is not None
    assert found.order == ("in_out" if name == "stretched batch" else None)
    assert bool(found.grouped) is (grouped is not None)
    x, y = found.data, function(*args)
    features_in, features_out = Features(found.axes_in), Features(found.axes_out)
    rows_in, rows_out = features_in.rows(x).flatten(0, -2), features_out.rows(y).flatten(0, -2)
    many = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=x.dtype) for i in range(40)]
    results = [function(*(value if arg is x else arg for arg in args)) for value in many]
    matrix = torch.linalg.lstsq(
        torch.cat([features_in.rows(value).flatten(0, -2) for value in many]),
        torch.cat([features_out.rows(value).flatten(0, -2) for value in results]),
    ).solution
    torch.testing.assert_close(rows_in @ matrix, rows_out)
    for axis in set(range(-x.ndim, 0)) - set(found.axes_in):
        flipped = function(*(x.flip(axis) if arg is x else arg for arg in args))
        torch.testing.assert_close(flipped, y.flip(found.place(axis, x.ndim, y.ndim)))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.matmul, (X3, X3.mT)),
        (torch.einsum, ("ab,cb->ac", X2, X2)),
        (torch.einsum, ("...b,zb->...", X4, W)),
        (torch.einsum, ("acb,zb->cza", X3, W)),
        (torch.einsum, ("ab,zb", X2, W)),
        (torch.add, (X2, 1.0)),
    ],
    ids=["two data", "no weight", "summed away", "axes permuted", "implicit", "no contraction"],
)
def test_other_calls_are_no_contraction(function: object, args: tuple[object, ...]) -> None:
    assert read(function, args) is None


@given(st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_einsum_on_any_axis(ndim: int, axis: int, weight_first: bool, seed: int) -> None:
    axis %= ndim
    x = random(*range(2, 2 + ndim), seed=seed)
    letters = "abcd"[:ndim]
    w, w_term = random(9, x.shape[axis], seed=seed + 1), f"z{letters[axis]}"
    result = letters.replace(letters[axis], "z")
    equation = f"{w_term},{letters}->{result}" if weight_first else f"{letters},{w_term}->{result}"
    args = (equation, w, x) if weight_first else (equation, x, w)
    found = contraction(torch.einsum, args, {}, lambda t: t is w, lambda t: tuple(t.shape))
    assert found == Contraction(x, w, (axis - ndim,), (axis - ndim,), "out_in")


def test_coefficients_of_a_basis_are_one_weight_with_it() -> None:
    """sum_a w[y,x,a] B[a,i,j] h[b,j,x]: the mixed axes are j, x and i, y; a is no matter of the data's."""
    w, basis, h = random(7, B, 2), random(2, C, C, seed=1), random(A, C, B, seed=2)
    args = ("yxa,aij,bjx->biy", w, basis, h)
    fixed = {id(w), id(basis)}
    found = contraction(torch.einsum, args, {}, lambda x: x is w, lambda x: tuple(x.shape), lambda x: id(x) in fixed)
    assert found is not None
    assert (found.data is h, found.weight is w, found.order, found.grouped) == (True, True, None, 0)
    assert (set(found.axes_in), set(found.axes_out)) == ({-2, -1}, {-2, -1})
    assert contraction(torch.einsum, args, {}, lambda x: x is w, lambda x: tuple(x.shape)) is None, "two data"
