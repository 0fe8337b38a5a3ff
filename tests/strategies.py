"""Hypothesis strategies: random groups, representations, layouts and terms, in float64."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, Representation, irreps
from relaxify.relaxation.terms import HookedTerm
from relaxify.relaxation.terms.term import Term
from relaxify.sites import EquivariantMap, Path, Site

LABELS = {
    "SO(2)": ["0", "1", "2", "vector", "adjoint"],
    "O(2)": ["0e", "0o", "1", "3", "vector"],
    "SO(3)": ["0", "1", "2", "3", "vector", "adjoint"],
    "O(3)": ["0e", "0o", "1e", "1o", "2e", "2o", "vector", "adjoint"],
    "C(4)": ["0", "1", "2", "vector"],
    "C(5)": ["0", "1", "2"],
    "D(4)": ["0e", "0o", "1", "2"],
    "D(3)": ["0e", "0o", "1"],
    "S(3)": ["trivial", "sign", "vector"],
    "S(4)": ["trivial", "sign", "vector"],
    "SO(1,3)": ["trivial", "vector", "adjoint"],
    "SL(2)": ["trivial", "vector", "adjoint"],
    "T(2)": ["trivial", "vector"],
}
COMPACT = [name for name in LABELS if Group.parse(name).compact]

seeds = st.integers(0, 2**31 - 1)
layouts = st.sampled_from(["channel_major", "component_major"])


def groups(names: list[str] | None = None) -> st.SearchStrategy[Group]:
    own = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    custom = [Group.from_generators(own, name="SO(1,1)")] if names is None else []
    return st.sampled_from([*map(Group.parse, names or LABELS), *custom])


@st.composite
def representations(draw: st.DrawFn, group: Group, max_blocks: int = 3) -> Representation:
    total = Representation(group, (), ())
    for _ in range(draw(st.integers(1, max_blocks))):
        label = draw(st.sampled_from(LABELS.get(group.name, ["trivial", "vector"])))
        total += irreps(group, f"{draw(st.integers(1, 3))}x{label}", draw(layouts))
    return total.dual() if draw(st.booleans()) else total


@st.composite
def pairs(draw: st.DrawFn, names: list[str] | None = None) -> tuple[Representation, Representation]:
    """Representations (rep_in, rep_out) of one random group."""
    group = draw(groups(names))
    return draw(representations(group)), draw(representations(group))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term_between(
    rep_in: Representation,
    rep_out: Representation,
    config: RelaxConfig = RelaxConfig(),
    weight: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    paths: tuple[Path, ...] = (),
) -> Term:
    """A term on its own, without a model."""
    site = Site("layer", nn.Identity(), EquivariantMap("test", "map", rep_in, rep_out, paths=paths), lambda: 0.0)
    term = HookedTerm(site, config, keep_relaxed=False, like=torch.zeros((), dtype=dtype))
    if weight is not None:
        term.weight.data.copy_(weight)
    return term
