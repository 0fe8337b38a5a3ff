"""The SEGNN example: equivariant to rounding, the published network's size, and an ordinary module in every other way."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import Tensor

from relaxify_examples.models.segnn import SEGNN, SteerableLinear, fully_connected, mean_over_neighbours

OLDEST = Path(sys.prefix) / "e3nn-0.4.4"
EXAMPLES = Path(__file__).parents[2] / "examples"


def batch(graphs: int = 3, n: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, v, q = (torch.randn(graphs, n, k, generator=generator, dtype=dtype) for k in (3, 3, 1))
    return x, v, q.sign()


def small(lmax: int = 1) -> SEGNN:
    return SEGNN(width=4, num_layers=2, lmax=lmax)


@pytest.fixture
def _double() -> Iterator[None]:
    """e3nn rounds its Clebsch-Gordan coefficients to torch's default dtype when a layer is made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_published_network_has_its_size() -> None:
    assert sum(p.numel() for p in SEGNN(width=32, num_layers=4).parameters()) == 147_424


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("lmax", [1, 2])
@pytest.mark.parametrize("determinant", [1, -1])
def test_equivariant_under_rotations_reflections_and_translations(lmax: int, determinant: int) -> None:
    model, (x, v, q) = small(lmax), batch()
    g = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    g *= g.det() * determinant
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    displacement = model(x, v, q) - x
    moved = model(x @ g.T + shift, v @ g.T, q) - (x @ g.T + shift)
    assert displacement.norm() > 1e-3
    assert (moved - displacement @ g.T).norm() < 1e-13 * displacement.norm()


def test_equivariant_under_permutations_of_particles() -> None:
    model, (x, v, q) = small().double(), batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(x[:, order], v[:, order], q[:, order]), model(x, v, q)[:, order], rtol=0, atol=1e-13)


def test_every_input_matters() -> None:
    model, (x, v, q) = small().double(), batch()
    base = model(x, v, q) - x
    for changed in ((x * 1.1, v, q), (x, v * 1.1, q), (x, v, -q * torch.tensor([1.0, -1, 1, 1, 1])[:, None])):
        assert ((model(*changed) - changed[0]) - base).norm() > 1e-3 * base.norm()


def test_graphs_of_a_batch_do_not_see_each_other() -> None:
    model, (x, v, q) = small().double(), batch()
    alone = torch.stack([model(x[i], v[i], q[i]) for i in range(3)])
    torch.testing.assert_close(model(x, v, q), alone, rtol=0, atol=1e-13)


def test_edge_index_says_who_sees_whom() -> None:
    model, (x, v, q) = small().double(), batch()
    flat = tuple(a.reshape(15, -1) for a in (x, v, q))
    torch.testing.assert_close(model(*flat, fully_connected(3, 5)), model(x, v, q).reshape(15, 3), rtol=0, atol=1e-13)


def test_a_particle_alone_still_knows_how_it_moves() -> None:
    model, (x, v, q) = small().double(), batch(n=1)
    displacement = model(x, v, q) - x
    assert displacement.norm() > 1e-3
    # by symmetry it can only go along its velocity
    torch.testing.assert_close(torch.linalg.cross(displacement, v), torch.zeros_like(v), rtol=0, atol=1e-13)


def test_mean_over_neighbours_is_zero_where_nothing_arrives() -> None:
    mean = mean_over_neighbours(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 4)
    assert mean.tolist() == [[2.0], [0.0], [5.0], [0.0]]


def test_degenerate_inputs_have_finite_gradients() -> None:
    model, q = small(), torch.ones(1, 5, 1)
    model(torch.zeros(1, 5, 3), torch.zeros(1, 5, 3), q).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns() -> None:
    model, (x, v, q) = small(), batch(dtype=torch.float32)
    (model(x, v, q) - x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.numel())


def test_weights_start_as_those_of_a_linear_layer() -> None:
    layer = SteerableLinear(o3.Irreps("40x0e + 30x1o"), o3.Irreps("1x0e + 1x1o"), o3.Irreps("20x0e + 10x1o"))
    bound = 70**-0.5
    weights = layer.tensor_product.weight
    assert weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert layer.bias is not None
    assert layer.bias.abs().max() <= bound


def test_the_bias_acts_on_invariant_scalars_alone() -> None:
    layer = SteerableLinear(o3.Irreps("2x0e + 2x1o"), o3.Irreps("1x0e"), o3.Irreps("3x0e + 2x1o"))
    out = layer(torch.zeros(1, 8), torch.ones(1, 1))[0]
    torch.testing.assert_close(out, torch.cat([layer.bias, torch.zeros(6)]))
    assert SteerableLinear(o3.Irreps("2x1o"), o3.Irreps("1x0e"), o3.Irreps("3x1o")).bias is None


def test_pickles_copies_and_loads_strictly() -> None:
    model, inputs = small(), batch(dtype=torch.float32)
    torch.manual_seed(5)
    other = small()
    assert not torch.equal(other(*inputs), model(*inputs))
    other.load_state_dict(model.state_dict(), strict=True)
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(*inputs), model(*inputs))


@pytest.mark.skipif(not OLDEST.is_dir(), reason="e3nn 0.4.4 is not installed next to the current one")
def test_the_oldest_e3nn_computes_the_same(tmp_path: Path) -> None:
    program = (
        "import sys, torch, e3nn; from relaxify_examples.models.segnn import SEGNN; assert e3nn.__version__ == '0.4.4'\n"
        "state, inputs = torch.load(sys.argv[1]); model = SEGNN(4, 2, 2); model.load_state_dict(state, strict=True)\n"
        "torch.save(model(*inputs).detach(), sys.argv[2])"
    )
    model, inputs = small(lmax=2), batch(dtype=torch.float32)
    torch.save((model.state_dict(), inputs), tmp_path / "in.pt")
    path = os.pathsep.join([str(OLDEST), str(EXAMPLES)])
    # e3nn 0.4.4 unpickles its constants in a way that torch has since made opt-in.
    env = {**os.environ, "PYTHONPATH": path, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "in.pt"), str(tmp_path / "out.pt")]
    subprocess.run(command, env=env, check=True)
    seen = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(seen, model(*inputs).detach(), rtol=1e-4, atol=1e-5)
