"""The derivative of a curve: forward-mode AD wherever it can be trusted, and differences where it cannot."""

import torch
from torch import Tensor

from relaxify.inspection.derivatives import best_method


def _near_tie(gap: float) -> Tensor:
    """Two numbers so far apart, of which the smaller one overtakes the larger at t = gap / 3."""
    return torch.tensor([0.5 - gap, 0.5], dtype=torch.float64)


def test_a_kink_within_the_step_is_no_reason_to_distrust_forward_ad() -> None:
    def curve(t: Tensor) -> Tensor:
        return (_near_tie(3e-7) + t * torch.tensor([4.0, 1.0], dtype=torch.float64)).max()

    derive, method = best_method(curve, 1e-6)
    assert method == "forward-mode AD"
    assert derive(curve)[1][0].item() == 1.0


def test_a_model_that_hides_its_input_is_derived_by_differences() -> None:
    def curve(t: Tensor) -> Tensor:
        return torch.as_tensor(float(t), dtype=torch.float64).sin() + 0 * t

    derive, method = best_method(curve, 1e-6)
    assert method == "central differences"
    assert abs(derive(curve)[1][0].item() - 1) < 1e-8


def test_a_gradient_within_the_curve_is_derived_with_its_graph() -> None:
    def curve(t: Tensor) -> Tensor:
        x = torch.ones(2, dtype=torch.float64).requires_grad_()
        return torch.autograd.grad((t.double().exp() * x**2).sum(), x, create_graph=True)[0]

    derive, method = best_method(curve, 1e-6)
    assert method == "forward-mode AD"
    assert derive(curve)[1][0].tolist() == [2.0, 2.0]


def test_what_is_computed_for_gradients_alone_is_derived_too() -> None:
    def curve(t: Tensor) -> tuple[Tensor, ...]:
        t = t.double()
        return (t.sin(), t.exp()) if torch.is_grad_enabled() else (t.sin(),)

    derive, method = best_method(curve, 1e-6)
    assert method == "forward-mode AD"
    assert [float(value) for value in derive(curve)[1]] == [1.0, 1.0]
