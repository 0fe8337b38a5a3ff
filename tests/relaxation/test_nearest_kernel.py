"""The kernel nearest on the data: by normal equations where a kernel is a table of blocks, by iterations where not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import Group, Representation
from relaxify.grids.kernels import Convolution, Kernel
from relaxify.relaxation.terms import nearest_kernel
from relaxify.relaxation.terms.kernel_fields import kinds_of
from relaxify.relaxation.terms.nearest_kernel import nearest_parameter
from relaxify.sites import EquivariantMap, Features

GROUP = Group.parse("C(2)")


class TableKernel(Kernel):
    """A kernel that depends linearly on a layer's parameter: E(w), E being (kernel's entries, coefficients)."""

    parameter = "weight"

    def expand(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        return self.of(layer, layer.weight), None

    def of(self, layer: Any, parameter: Tensor) -> Tensor:
        return (layer.map @ parameter.flatten()).view(layer.shape)


def representation(sizes: list[tuple[int, int]]) -> Representation:
    """Fields of these (multiplicity, dimension): only their places matter here."""
    total = Representation(GROUP, (), ())
    for copies, d in sizes:
        total = total + Representation.of(GROUP, f"of dimension {d}", copies, torch.eye(d)[None])
    return total


def layer_with(rep_out: Representation, rep_in: Representation, generator: torch.Generator, slots: int) -> nn.Module:
    """One with random bases between kinds of fields, partly dependent; its coefficients slot by slot, pairs in any order."""
    columns = [
        _columns(rep_out, rep_in, out, into, torch.randn(slots, out.shape[1], into.shape[1], generator=generator).double())
        for out in (kind.entries for kind in kinds_of(rep_out))
        for into in (kind.entries for kind in kinds_of(rep_in))
    ]
    table = torch.cat(columns)
    layer: Any = nn.Module()
    layer.map = table[torch.randperm(len(table), generator=generator)].transpose(0, 1).flatten(0, 1).mT.contiguous()
    layer.weight = nn.Parameter(torch.zeros(layer.map.shape[1], dtype=torch.float64))
    layer.shape = (rep_out.dim, rep_in.dim)
    return layer


def _columns(rep_out: Representation, rep_in: Representation, out: Tensor, into: Tensor, basis: Tensor) -> Tensor:
    """Of each pair of fields, the kernels of its slots: (pairs, slots, entries of the kernel)."""
    basis[-1] = basis[0]
    found = torch.zeros(len(out), len(into), len(basis), rep_out.dim, rep_in.dim, dtype=torch.float64)
    for (o, rows), (i, columns) in itertools.product(enumerate(out), enumerate(into)):
        found[o, i, :, rows[:, None], columns] = basis
    return found.flatten(3).flatten(0, 1)


@contextmanager
def counted(module: Any, name: str) -> Iterator[list[Any]]:
    """The calls of a function, as they happen."""
    calls, own = [], getattr(module, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, lambda *args, **kwargs: (calls.append(args), own(*args, **kwargs))[1])
        yield calls


SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)


def map_of(rep_out: Representation, rep_in: Representation) -> EquivariantMap:
    on_last = Features((1,))
    kernel = Convolution((), kernel=TableKernel())
    return EquivariantMap("test", "test", rep_in, rep_out, features_in=on_last, features_out=on_last, convolution=kernel)


def slope(layer: Any, w: Tensor, wanted: Tensor, moment: Tensor) -> float:
    """The gradient's length of half tr((E(w) - K) C (E(w) - K)^T)."""
    left = (layer.map @ w).view(layer.shape) - wanted
    return float((layer.map.mT @ (left @ moment).flatten()).norm())


@settings(max_examples=25)
@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_the_gradient_vanishes(outs: list[Any], ins: list[Any], slots: int, samples: int, seed: int) -> None:
    """However few samples C is made of; and of all the nearest, the kernel is nearest to the unweighted one."""
    generator = torch.Generator().manual_seed(seed)
    rep_out, rep_in = representation(outs), representation(ins)
    layer: Any = layer_with(rep_out, rep_in, generator, slots)
    wanted = torch.randn(rep_out.dim, rep_in.dim, generator=generator, dtype=torch.float64)
    rows = torch.randn(samples, rep_in.dim, generator=generator, dtype=torch.float64)
    map_, moment = map_of(rep_out, rep_in), rows.mT @ rows
    plain = nearest_parameter(layer, map_, wanted)[1]
    with counted(nearest_kernel, "lsqr") as iterated:
        found, kernel = nearest_parameter(layer, map_, wanted, moment)
    assert len(iterated) == 1, "the unweighted solution alone is iterated"
    assert slope(layer, found, wanted, moment) <= 1e-8 * slope(layer, 0 * found, wanted, moment) + 1e-12
    torch.testing.assert_close(kernel, (layer.map @ found).view(layer.shape))
    u, s, _ = torch.linalg.svd(layer.map, full_matrices=False)
    own = u[:, s > 1e-9 * s[0]]
    seen = torch.einsum("oij,ki->okj", own.view(*layer.shape, -1), rows).flatten(0, 1)
    change = own.mT @ (kernel - plain).flatten()
    inside = seen.mT @ torch.linalg.lstsq(seen.mT, change[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(inside, change, rtol=1e-6, atol=1e-7 * (1 + float(wanted.norm())))


def test_a_map_without_blocks_is_iterated() -> None:
    """Coefficients that act on several fields, or blocks of one pair of kinds that differ."""
    generator = torch.Generator().manual_seed(0)
    rep = representation([(3, 2)])
    wanted, rows = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    for spoil in ("mixed", "uneven"):
        layer: Any = layer_with(rep, rep, generator, 2)
        if spoil == "mixed":
            layer.map = layer.map @ torch.randn(18, 18, generator=generator, dtype=torch.float64)
        else:
            layer.map[:, 5] *= 2
        found, _ = nearest_parameter(layer, map_of(rep, rep), wanted, rows.mT @ rows)
        assert slope(layer, found, wanted, rows.mT @ rows) <= 1e-8 * slope(layer, 0 * found, wanted, rows.mT @ rows)
