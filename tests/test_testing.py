"""assert_equivariant passes sound models, and its message is the first broken operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relaxify.testing import assert_equivariant

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
    with pytest.raises(AssertionError, match=r"above 1\.0e-06; no single operation could be named"):
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
