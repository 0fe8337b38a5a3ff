"""The Equiformer example and its forces: equivariant to rounding, conservative, smooth, and trained like any module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import relaxify
from relaxify_examples.models.equiformer import Equiformer, softmax_at
from relaxify_examples.models.force_field import ForceField

NUMBERS = (6, 6, 8, 1, 1, 1)


@pytest.fixture
def _double() -> Iterator[None]:
    """e3nn rounds its Clebsch-Gordan coefficients to torch's default dtype when a layer is made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def field(irreps: str = "6x0e+4x1o+2x2e", cutoff: float = 5.0) -> ForceField:
    return ForceField(Equiformer(irreps, depth=2, species=3, radial=6, cutoff=cutoff), NUMBERS)


def conformations(count: int = 3) -> Tensor:
    return 1.5 * torch.randn(count, len(NUMBERS), 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("irreps", ["8x0e+4x1o", "6x0e+4x1o+2x2e"])
@pytest.mark.parametrize("determinant", [1, -1])
def test_energies_are_invariant_and_forces_turn_with_the_molecule(irreps: str, determinant: int) -> None:
    model, x = field(irreps), conformations()
    g = torch.linalg.qr(torch.randn(3, 3))[0]
    g *= g.det() * determinant
    (energies, forces), (moved, turned) = model(x), model(x @ g.T + torch.tensor([1.0, -2.0, 0.5]))
    assert forces.norm() > 1e-3
    assert (moved - energies).norm() < 1e-10 * energies.norm()
    assert (turned - forces @ g.T).norm() < 1e-10 * forces.norm()


@pytest.mark.usefixtures("_double")
def test_forces_are_minus_the_slope_of_the_energy_and_so_is_what_is_learned_from_them() -> None:
    model, x = field(), conformations(1)
    along, shift = torch.randn_like(x), 1e-5
    ahead, behind = (model(x + sign * shift * along)[0] for sign in (1, -1))
    assert (model(x)[1] * along).sum().item() == pytest.approx(-(ahead - behind).item() / (2 * shift), rel=1e-6)
    weight = model.network.blocks[0].attention.proj.tp.weight
    (slope,) = torch.autograd.grad(model(x)[1].square().sum(), weight)
    step, losses = torch.randn_like(weight), []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(step, alpha=sign * shift)
            losses.append(model(x)[1].square().sum().item())
            weight.sub_(step, alpha=sign * shift)
    assert (slope * step).sum().item() == pytest.approx((losses[0] - losses[1]) / (2 * shift), rel=1e-5)


def test_forces_are_had_without_a_graph_where_gradients_are_off() -> None:
    model, x = field(), conformations()
    with torch.no_grad():
        energies, forces = model(x)
    assert not energies.requires_grad
    assert not forces.requires_grad
    assert not x.requires_grad
    torch.testing.assert_close(forces, model(x)[1].detach())


@pytest.mark.usefixtures("_double")
def test_atoms_of_a_kind_are_alike_and_molecules_do_not_see_each_other() -> None:
    model, x = field(), conformations()
    order = torch.tensor([1, 0, 2, 5, 3, 4])
    energies, forces = model(x)
    moved, permuted = model(x[:, order])
    torch.testing.assert_close(moved, energies)
    torch.testing.assert_close(permuted, forces[:, order])
    torch.testing.assert_close(torch.cat([model(one[None])[0] for one in x]), energies)
    assert (model(x[:, [2, 1, 0, 3, 4, 5]])[0] - energies).abs().min() > 1e-3


@pytest.mark.usefixtures("_double")
def test_energies_and_forces_are_smooth_where_an_atom_leaves() -> None:
    """At the cutoff of all others: no step in the energy, none in the force on it, and then no force."""
    model, x = field(cutoff=3.0), conformations(1) / 3
    others, away = x[0, :-1], torch.tensor([1.0, 0.0, 0.0])

    def placed(distance: float) -> Tensor:
        return torch.cat([others, (others.mean(0) + distance * away)[None]])[None]

    distances = torch.linspace(1, 5, 40_001)
    nearest = (others.mean(0) + distances[:, None, None] * away - others).norm(dim=-1).amin(1)
    reach = float(distances[nearest < 3.0].max())
    (near, _), inside, outside = model(placed(1.0)), model(placed(reach - 1e-3)), model(placed(reach + 1e-3))
    assert (inside[0] - outside[0]).abs().item() < 1e-6 * near.abs().item()
    assert 0 < inside[1][0, -1].norm() < 1e-3
    assert outside[1][0, -1].norm() == 0


def test_an_atom_alone_has_an_energy_and_no_force() -> None:
    model = ForceField(Equiformer(depth=1), (6, 1))
    energies, forces = model(torch.tensor([[[0.0, 0, 0], [9.0, 0, 0]]]))
    (energies.sum() + forces.sum()).backward()
    assert forces.abs().max() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_attention_weights_of_a_receiver_come_to_one_before_they_fade() -> None:
    receiver, logits = torch.tensor([0, 0, 2, 2]), torch.tensor([[900.0], [901.0], [-900.0], [-900.0]])
    weights = softmax_at(receiver, logits, torch.ones(4, 1), 3)[:, 0]
    torch.testing.assert_close(weights, torch.tensor([0.2689414, 0.7310586, 0.5, 0.5]))
    faded = softmax_at(receiver, logits, torch.tensor([[1.0], [1.0], [0.0], [1.0]]), 3)[:, 0]
    torch.testing.assert_close(faded[2:], torch.tensor([0.0, 1.0]))


@pytest.mark.usefixtures("_double")
def test_relaxify_finds_its_sites_and_gives_the_forces_back() -> None:
    model, x = field(), conformations()
    assert len(relaxify.plan(model, "O(3)").sites) == 21
    before = model(x)[1].detach()
    terms = relaxify.relaxify(model, "O(3)")
    theta = relaxify.Constant(terms)
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if "relax" in name], 1e-2)
    for _ in range(2):
        loss = model(x)[1].square().mean()
        (loss + relaxify.penalty(model, relative_to=loss)).backward()
        optimizer.step()
        theta.step()
    assert (model(x)[1] - before).norm() > 1e-6 * before.norm()
    torch.testing.assert_close(relaxify.project(model, mode="drop")(x)[1].detach(), before)


def test_every_parameter_learns_from_forces() -> None:
    model = field()
    energies, forces = model(conformations())
    (energies.square().mean() + forces.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.numel())


def test_pickles_copies_and_loads_strictly() -> None:
    model, x = field(), conformations()
    torch.manual_seed(5)
    other = field()
    assert not torch.equal(other(x)[1], model(x)[1])
    other.load_state_dict(model.state_dict(), strict=True)
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x)[1], model(x)[1])
