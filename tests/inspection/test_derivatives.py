"""The derivative of a curve: forward-mode AD wherever it can be trusted, and differences where it cannot."""

import torch
from torch import Tensor

from relaxify.inspection.derivatives import best_method, by_forward_ad


def _near_tie(gap: float) -> Tensor:
    """Two numbers so far apart, of which the smaller one overtakes the larger at t = gap / 3."""
    return torch.tensor([0.5 - gap, 0.5], dtype=torch.float64)


def test_a_kink_within_the_step_is_no_reason_to_distrust_forward_ad() -> None:
    def curve(t: Tensor) -> Tensor:
        return (_near_tie(3e-7) + t * torch.tensor([4.0, 1.0], dtype=torch.float64)).max()

    derive, method = best_method(curve, 1e-6)
    assert method == "forward-mode AD"
    assert derive is by_forward_ad
    assert derive(curve)[1][0].item() == 1.0


def test_a_model_that_hides_its_input_is_derived_by_differences() -> None:
    def curve(t: Tensor) -> Tensor:
        return torch.as_tensor(float(t), dtype=torch.float64).sin() + 0 * t

    derive, method = best_method(curve, 1e-6)
    assert method == "central differences"
    assert abs(derive(curve)[1][0].item() - 1) < 1e-8
