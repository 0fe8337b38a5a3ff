"""cuequivariance_torch's Linear is a site in whichever layout it was made for, and behaves like any other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import cuequivariance as cue
import pytest
import torch
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, plan, project, relaxify
from relaxify.representations import slices
from relaxify_adapters.cuequivariance import adapter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cuequivariance_torch as cuet

LAYOUTS = (cue.mul_ir, cue.ir_mul)
IN, OUT = "3x0e + 2x1o + 2x2e", "2x0e + 3x1o + 1x2e"


def layer(
    layout_in: cue.IrrepsLayout = cue.ir_mul, layout_out: cue.IrrepsLayout | None = None, **options: object
) -> nn.Module:
    irreps = (cue.Irreps("O3", text) for text in (IN, OUT))
    return cuet.Linear(*irreps, layout_in=layout_in, layout_out=layout_out or layout_in, **options)


@pytest.mark.parametrize("layout_in", LAYOUTS, ids=str)
@pytest.mark.parametrize("layout_out", LAYOUTS, ids=str)
@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
def test_the_layouts_are_measured(layout_in: cue.IrrepsLayout, layout_out: cue.IrrepsLayout, group: str) -> None:
    (site,) = plan(nn.Sequential(layer(layout_in, layout_out)), group).sites
    expected = {cue.mul_ir: "channel_major", cue.ir_mul: "component_major"}
    # scalars look the same in both
    assert {block.layout for block in site.map.rep_in.blocks if block.dimension > 1} == {expected[layout_in]}
    assert {block.layout for block in site.map.rep_out.blocks if min(block.dimension, block.multiplicity) > 1} == {
        expected[layout_out]
    }
    assert site.proof is not None
    assert site.proof < 1e-6


class OtherProducts(cue.O3):
    """As MACE's: what is multiplied differs, and how a feature turns does not."""

    @classmethod
    def iterator(cls) -> Iterator[cue.O3]:
        return (cls(irrep.l, irrep.p) for irrep in cue.O3.iterator())

    @classmethod
    def clebsch_gordan(cls, *irreps: cue.O3) -> object:
        return -cue.O3.clebsch_gordan(*irreps)


class OtherMatrices(OtherProducts):
    X = property(lambda self: -cue.O3(self.l, self.p).X)


def test_irreps_of_a_class_of_its_own_are_known_by_their_matrices() -> None:
    def made(kind: type) -> nn.Module:
        return nn.Sequential(cuet.Linear(cue.Irreps(kind, IN), cue.Irreps(kind, OUT), layout=cue.ir_mul))

    ((site,), (expected,)) = (plan(made(kind), "O(3)").sites for kind in (OtherProducts, cue.O3))
    assert (site.map.rep_in.blocks, site.map.paths) == (expected.map.rep_in.blocks, expected.map.paths)
    (rejected,) = plan(made(OtherMatrices), "O(3)").rejected
    assert rejected.reason == "its irreps are of OtherMatrices, and O(3) has other elements"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_its_own_weight_is_what_the_paths_say(layout: cue.IrrepsLayout) -> None:
    module = layer(layout).double()
    (site,) = adapter.sites("", module, Group.parse("O(3)"))
    rep_in, rep_out = site.map.rep_in, site.map.rep_out
    matrix = torch.zeros(rep_out.dim, rep_in.dim, dtype=torch.float64)
    columns = torch.eye(rep_in.dim, dtype=torch.float64)
    into, out = list(slices(rep_in.blocks)), list(slices(rep_out.blocks))
    for path in site.map.paths:
        block_in, block_out = rep_in.blocks[path.block_in], rep_out.blocks[path.block_out]
        size = block_in.multiplicity * block_out.multiplicity
        weight = module.weight.detach().flatten()[path.offset : path.offset + size]
        weight = path.scale * weight.unflatten(0, (block_in.multiplicity, block_out.multiplicity))
        features = block_in.split(columns[:, into[path.block_in]])
        matrix[out[path.block_out]] += block_out.merge(torch.einsum("uv,rui->rvi", weight, features)).mT
    torch.testing.assert_close(matrix, module(columns).detach().mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_relax_train_project(mode: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer())
    plain, x = copy.deepcopy(model), torch.randn(20, 19)
    relaxify(model, "O(3)", config=RelaxConfig(theta=1.0))
    assert torch.equal(model(x), plain(x))
    optimizer = torch.optim.SGD(model[0].relaxation.parameters(), 1e-2)
    for _ in range(3):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    clean = project(model, mode=mode)
    plain.load_state_dict(clean.state_dict(), strict=True)
    assert torch.equal(plain(x), clean(x))
    distance = [(model(x) - other(x)).norm() for other in (clean, project(model))]
    assert distance[0] <= distance[1]


@pytest.mark.parametrize(
    ("module", "group", "reason"),
    [
        (layer(internal_weights=False), "O(3)", "weights are inputs of the call"),
        (layer(weight_classes=3), "O(3)", "several weights side by side"),
        (layer(), "SO(2)", "its irreps are of O3, and SO(2) has other elements"),
        (
            cuet.Linear(cue.Irreps("SO3", "2x1"), cue.Irreps("SO3", "2x1"), layout=cue.ir_mul),
            "O(3)",
            "its irreps are of SO3",
        ),
    ],
    ids=["external", "classes", "group", "parity"],
)
def test_what_cannot_be_relaxed_says_why(module: nn.Module, group: str, reason: str) -> None:
    (rejected,) = plan(nn.Sequential(module), group).rejected
    assert reason in rejected.reason


def test_without_the_library_nothing_is_claimed() -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert list(adapter.sites("", Linear(), Group.parse("O(3)"))) == []
