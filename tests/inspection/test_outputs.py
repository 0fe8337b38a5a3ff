"""End-to-end errors and Lie derivatives: exact where they can be known, in agreement with differences elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo import ENTRIES

from relaxify import Group, inspect
from relaxify.evidence.runs import Observer
from relaxify.graph.precision import quiet
from relaxify.inspection.derivatives import by_differences, by_forward_ad
from relaxify.inspection.lie_derivatives import curve_of

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


class Matrix(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT


def vectors(g: Tensor, y: Tensor) -> Tensor:
    return y @ g.mT.to(y)


def test_the_lie_derivative_of_a_linear_map_is_its_commutator() -> None:
    """L_A f(x) = (W A - A W) x."""
    weight = torch.randn(3, 3)
    report = inspect(Matrix(weight), "SO(3)", X, output_action=vectors)
    W, x = weight.double(), X.double()
    expected = [float((x @ (W @ A - A @ W).mT).norm() / (x @ W.mT).norm()) for A in Group.parse("SO(3)").generators]
    assert report.lie_method == "forward-mode AD"
    torch.testing.assert_close(torch.tensor(report.lie), torch.tensor(expected), rtol=1e-6, atol=0)


def test_the_error_of_a_linear_map_is_that_of_its_definition() -> None:
    weight = torch.randn(3, 3)
    report = inspect(Matrix(weight), "SO(3)", X, output_action=vectors)
    assert 0.1 < report.error.mean < 2
    assert report.error.largest >= report.error.mean
    assert report.error_in_own_precision.mean == pytest.approx(report.error.mean, rel=0.5)


class Turning(nn.Module):
    """Every point crossed with the mean: right under turns, wrong under reflections."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cross(x, x.square().sum(1, keepdim=True) * x.mean(0).expand_as(x))


def test_the_error_at_each_element_tells_turns_from_reflections() -> None:
    (output,) = inspect(Turning(), "O(3)", X, output_action=vectors).outputs
    turns = [error for name, error in output.by_element if "inversion" not in name]
    others = [error for name, error in output.by_element if "inversion" in name]
    assert max(turns) < 1e-12
    assert min(others) > 0.1
    assert max(others) == output.error.largest


# the quick ones of those that have forward derivatives
QUICK = """
    EGNN; EGNN, sparse; GVP; GVP with three vectors; GVP package; MACE; PaiNN energy; PaiNN dipole; ViSNet;
    ViSNet block, degree 2; SchNet; GNNFF; SEGNN; TensorNet; VN-DGCNN mean; VN-PointNet mean; VN-transformer;
    VN-transformer classifier
"""


@pytest.mark.parametrize("name", [name.strip() for name in QUICK.split(";")])
def test_forward_ad_agrees_with_differences(name: str) -> None:
    entry = ENTRIES[name]
    # in float64 from the start: MACE keeps coefficients in the precision of its first model
    model, inputs = entry.build()
    observer = Observer(model, Group.parse(entry.group), inputs, entry.transform)
    for generator in observer.group.generators:
        with quiet():
            value, derivative = by_forward_ad(curve_of(observer, generator))
            _, differences = by_differences(curve_of(observer, generator))
        for v, a, b in zip(value, derivative, differences, strict=True):
            assert float((a - b).norm()) <= 1e-6 * (1 + float(v.norm()))


def test_where_forward_ad_is_blind_differences_take_its_place() -> None:
    """PaiNN's forces are a gradient within forward, which detaches its positions."""
    entry = ENTRIES["PaiNN forces"]
    torch.manual_seed(0)
    report = inspect(entry.make(), entry.group, *entry.inputs(), input_action=entry.transform)
    assert report.lie_method == "central differences"
    assert max(report.lie) < 1e-7


def test_an_output_that_does_not_respond_is_told() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum() * 0 + 1

    (output,) = inspect(Silent(), "SO(3)", X).outputs
    assert output.response == 0


def test_outputs_say_as_what_they_transform() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = x - x.mean(0)
            return {
                "energy": x.square().sum(),
                "dipole": x.sum(0) + (x * x.square().sum(1, keepdim=True)).sum(0),
                "forces": 2 * x,
                "polarizability": x.T @ x,
                "chirality": torch.linalg.det(x[:3]),
            }

    words = {output.name: output.transforms for output in inspect(Several(), "O(3)", X).outputs}
    assert words == {
        "output.energy": "invariant",
        "output.dipole": "vector on axis -1",
        "output.forces": "vector on axis -1",
        "output.polarizability": "vector⊗vector on axes -2 and -1",
        "output.chirality": "pseudoscalar",
    }
