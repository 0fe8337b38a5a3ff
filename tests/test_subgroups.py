"""Subgroups: where a smaller group sits in a larger one, how representations restrict, and terms that keep a subgroup."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relaxify import Group, RelaxConfig, Representation, irreps, penalty, project, relaxify, set_theta
from relaxify.subgroups import restricted, subgroup

PAIRS = [
    ("O(3)", "O(2)"),
    ("O(3)", "O(2) about x"),
    ("SO(3)", "SO(2) about y"),
    ("O(3)", "SO(3)"),
    ("SO(3)", "C(4)"),
    ("SO(4)", "SO(3)"),
    ("SO(1,3)", "SO(3)"),
]


@pytest.mark.parametrize(("name", "within"), [pair[::-1] for pair in PAIRS])
def test_a_subgroup_acts_as_it_does_in_the_group(name: str, within: str) -> None:
    sub = subgroup(name, within)
    own, generator = Representation.defining(sub), torch.Generator().manual_seed(0)
    same = restricted(Representation.defining(Group.parse(within)), sub)
    for _ in range(3):
        g = sub.random(generator)
        torch.testing.assert_close(same.rho(g), own.rho(g))


def test_irreps_restrict_to_homomorphisms() -> None:
    rep = restricted(irreps("O(3)", "2x0e+1x0o+2x1o+1x2e"), Group.parse("D(4) about z"))
    quarter, mirror = (torch.block_diag(*blocks) for blocks in zip(*rep.actions, strict=True))
    identity = torch.eye(len(quarter), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.matrix_power(quarter, 4), identity, atol=1e-9, rtol=0)
    torch.testing.assert_close(mirror @ quarter @ mirror, quarter.mT, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("within", "name"), [("SO(3)", "O(2)"), ("O(3)", "SO(4)"), ("SO(2)", "SO(3)"), ("SO(1,3)", "SO(4)"), ("C(4)", "C(3)")]
)
def test_what_is_no_subgroup_is_refused(within: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no subgroup of"):
        subgroup(name, within)


class Gated(nn.Module):
    """Vectors on the axis before the last, mixed and gated by their squares under a form that the group keeps."""

    def __init__(self, form: torch.Tensor) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 9, bias=False), nn.Linear(9, 2, bias=False)
        self.register_buffer("form", form)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.last(h * torch.tanh(torch.einsum("bic,ij,bjc->bc", h, self.form, h))[:, None])


def error(model: nn.Module, x: torch.Tensor, group: Group) -> float:
    """The largest |f(g x) - g f(x)| / |f(x)|."""
    vector, generator = Representation.defining(group), torch.Generator().manual_seed(1)
    with torch.no_grad():
        y = model(x)
        elements = [vector.rho(group.random(generator)) for _ in range(3)]
        return max(float((model(g @ x) - g @ y).norm() / (g @ y).norm()) for g in elements)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    set_theta(model, 1.0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        ((model.train()(x) - y).square().mean() + penalty(model)).backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize(("within", "name"), PAIRS)
def test_a_model_breaks_no_more_than_to_the_subgroup(within: str, name: str) -> None:
    """Exactly, while it is trained and when it stays relaxed; projected, it has the whole group's symmetry again."""
    torch.manual_seed(0)
    size = Group.parse(within).dim
    eta = torch.diag(torch.tensor([-1.0, *[1.0] * (size - 1)])) if within == "SO(1,3)" else torch.eye(size)
    model, x, y = Gated(eta).double(), torch.randn(20, size, 7).double(), torch.randn(20, size, 2).double()
    relaxify(model, within, example_inputs=x, config=RelaxConfig(to=name, init="normal", std=0.3), keep_relaxed=True)
    train(model, x, y)
    inner, outer = subgroup(name, within), Group.parse(within)
    for mode in (True, False):
        assert error(model.train(mode), x, inner) < 1e-9
    if name != "SO(3)" or within != "O(3)":  # whose vectors commute with no more than those of SO(3)
        assert error(model, x, outer) > 1e-2
    for how in ("drop", "fold", "fit"):
        assert error(project(model, mode=how), x, outer) < 1e-9


def test_a_checkpoint_holds_what_acts() -> None:
    """Adam moves W out of the commutant, where it has no effect: what is saved has the effect alone."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3, 7).double(), torch.randn(20, 3, 2).double()
    model = relaxify(
        Gated(torch.eye(3)).double(), "O(3)", example_inputs=x, config=RelaxConfig(to="O(2)"), keep_relaxed=True
    )
    train(model, x, y)
    free = relaxify(Gated(torch.eye(3)).double(), "O(3)", example_inputs=x, keep_relaxed=True)
    free.load_state_dict(model.state_dict())
    torch.testing.assert_close(free.eval()(x), model.eval()(x))


def test_what_keeps_no_subgroup_is_refused() -> None:
    model, x = Gated(torch.eye(3)).double(), torch.randn(20, 3, 7).double()
    with pytest.raises(ValueError, match=r"O\(2\) is no subgroup of SO\(3\)"):
        relaxify(model, "SO(3)", example_inputs=x, config=RelaxConfig(to="O(2)"))
    with pytest.raises(ValueError, match="low rank"):
        RelaxConfig(to="O(2)", rank=2)
    image = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match="is a convolution, whose term keeps no subgroup"):
        relaxify(image, "D(4)", config=RelaxConfig(to="C(4)"))
    assert not list(model.named_parameters())[2:]
