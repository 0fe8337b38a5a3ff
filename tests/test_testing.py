"""Equivariance errors are those of their definition; assert_equivariant names the first broken operation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from relaxify.testing import assert_equivariant, elements, equivariance_error

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.mix = nn.Linear(1, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix((x - x.mean(0)).unsqueeze(-1))


def test_a_sound_model_passes_with_its_report() -> None:
    assert assert_equivariant(Net(), "O(3)", X).error.largest < 1e-12
    assert assert_equivariant(Net(), "O(3)", keywords={"x": X}).is_sound


def test_a_broken_model_fails_with_the_operation_the_line_and_the_cause() -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError) as failure:
        assert_equivariant(Net(bias=True), "O(3)", X)
    message = str(failure.value)
    assert message.startswith("Net is not equivariant under O(3): relative error ")
    assert "it breaks in mix at " in message
    assert "return self.mix(" in message
    assert "a constant (a bias) is added" in message


def test_a_model_that_is_rotated_otherwise_than_said_fails() -> None:
    with pytest.raises(AssertionError, match=r"relative error 1\.0e\+00.* broken.*; no single operation could be named"):
        assert_equivariant(Net(), "O(3)", X, output_action=lambda g, y: y)


def test_a_silent_output_proves_nothing() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum() * 0 + 1

    with pytest.raises(AssertionError, match="output does not respond to the inputs, which proves nothing"):
        assert_equivariant(Silent(), "SO(3)", X)


def test_the_fixture_of_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["relaxify.testing"]')
    pytester.makepyfile(
        """
        import torch
        def test_it(assert_equivariant):
            assert_equivariant(torch.nn.Linear(3, 3), "SO(3)", torch.randn(9, 3))
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Linear is not equivariant under SO(3)*"])


def turned(g: Tensor, y: Tensor) -> Tensor:
    return y @ g.mT


def test_the_error_of_a_linear_map_is_that_of_its_commutator() -> None:
    """max over g of |x (R^T W^T - W^T R^T)| / |d W^T|."""
    W, x = torch.randn(3, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    d = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double()
    expected = max(float((x @ (g.mT @ W.mT - W.mT @ g.mT)).norm() / (d @ W.mT).norm()) for g in elements("O(3)"))
    found = equivariance_error(lambda x: x @ W.mT, "O(3)", x, output_action=turned)
    assert found == pytest.approx(expected, rel=1e-12)
    # the response to a d that is ten times as large is ten times as large
    assert equivariance_error(lambda x: x @ W.mT, "O(3)", x, output_action=turned, spread=10) == pytest.approx(found / 10)


def test_inputs_by_name_in_containers_and_of_integers_are_taken() -> None:
    def pooled(x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        y = torch.zeros(2, 3, dtype=x.dtype).index_add(0, parts["graph"], x)
        return y, [2 * y]

    graph = torch.tensor([0, 0, 1, 1, 1])
    keywords = {"x": torch.randn(5, 3, dtype=torch.float64), "parts": {"graph": graph}}
    both = lambda g, y: (turned(g, y[0]), [turned(g, y[1][0])])  # noqa: E731
    assert equivariance_error(pooled, "O(3)", keywords=keywords, output_action=both) < 1e-14
    assert equivariance_error(pooled, "O(3)", keywords=keywords) > 0.1


def test_what_proves_nothing_has_no_small_error() -> None:
    assert equivariance_error(lambda x: 0 * x + 1, "SO(3)", X) == float("inf")
    assert equivariance_error(lambda x: 1e-6 * x + 1, "SO(3)", X) == float("inf")
    calls = itertools.count()
    # NaN from one element alone is not passed over
    assert math.isnan(equivariance_error(lambda x: x.norm() * (float("nan") if next(calls) == 3 else 1.0), "O(3)", X))
    with pytest.raises(ValueError, match="no example input has an axis of size 3"):
        equivariance_error(lambda x: x, "SO(3)", torch.ones(2, 2))
