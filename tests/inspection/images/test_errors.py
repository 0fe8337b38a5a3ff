"""LEE where it is known: nothing for a convolution, v . grad m for a mask, and a sum over layers that is the whole."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify.grids.flows import FLOWS, PixelPositions, apply
from relaxify.inspection.images import local_equivariance_error

X = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Residual(nn.Module):
    """A block whose operations in place and sum no leaf module holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm, self.act = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.act(self.norm(self.first(x))))
        y += x
        return torch.relu_(y)


def cnn() -> nn.Sequential:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(nn.Conv2d(2, 6, 3, stride=2), Residual(6), nn.MaxPool2d(2), Residual(6), *head)


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_has_no_translation_error_but_at_the_border(padding: int, bias: bool) -> None:
    report = local_equivariance_error(nn.Conv2d(2, 4, 3, padding=padding, bias=bias), X, transformations=("translation",))
    for each in report.transformations:
        assert each.interior**2 < 1e-20
        (step,) = each.steps
        assert step.interior**2 < 1e-20
        assert each.lee > 1e-3


@pytest.mark.parametrize("layers", [1, 3])
def test_a_circular_convolution_has_no_translation_error_anywhere(layers: int) -> None:
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular") for _ in range(layers)))
    report = local_equivariance_error(model, X, transformations=("translation", "rotation"), derivative="spectral")
    assert report["translation_x"].lee < 1e-20
    assert report["translation_y"].lee < 1e-20
    assert report["rotation"].lee > 1e-3
    assert all(each.error < 1e-12 for each in report["translation_x"].finite)


def test_a_stride_has_a_translation_error() -> None:
    model = nn.Conv2d(2, 2, 2, stride=2, padding_mode="circular")
    assert local_equivariance_error(model, X, derivative="spectral")["translation_x"].relative > 0.1


class Mask(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def waves(generator: torch.Generator, *shape: int) -> Tensor:
    """Images of the lowest waves only: products of two are still held by the grid."""
    x = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    basis = torch.stack([torch.ones(16), *(f(k * x) for k in (1, 2) for f in (torch.sin, torch.cos))])
    amplitudes = torch.randn(*shape, 5, 5, generator=generator, dtype=torch.float64)
    return torch.einsum("...ij,ih,jw->...hw", amplitudes, basis, basis)


@pytest.mark.parametrize("name", ["translation_x", "translation_y", "rotation", "scale", "shear_x"])
def test_a_mask_has_the_error_of_its_own_gradient(name: str) -> None:
    """L_v (m x) = m v . grad x - v . grad (m x) = -x v . grad m."""
    generator = torch.Generator().manual_seed(1)
    x, mask = waves(generator, 2, 3), waves(generator, 1, 1)
    (flow,) = [flow for of_name in FLOWS.values() for flow in of_name if flow.name == name]
    expected = x * apply(flow, mask, PixelPositions(16, 16), "spectral")
    report = local_equivariance_error(Mask(mask), x, transformations=(name,), derivative="spectral", probes=None)
    assert report[name].lee == pytest.approx(float(expected.square().mean()), rel=1e-12)
    assert report[name].steps[0].lee == pytest.approx(report[name].lee, rel=1e-12)


def test_a_translation_of_a_known_mask() -> None:
    """m = sin(2 pi x) on an image of ones: |L f|^2 is (2 pi)^2 / 2 on average."""
    mask = torch.sin(2 * math.pi * torch.arange(16, dtype=torch.float64) / 16).expand(1, 1, 16, 16)
    report = local_equivariance_error(Mask(mask.clone()), torch.ones(1, 1, 16, 16), derivative="spectral")
    assert report["translation_x"].lee == pytest.approx(2 * math.pi**2, rel=1e-6)
    assert report["translation_y"].lee < 1e-20


def test_the_steps_terms_add_up_to_the_whole() -> None:
    report = local_equivariance_error(cnn(), X)
    assert report.exact
    assert report.method == "forward-mode AD"
    assert {(step.path, step.op) for step in report["rotation"].steps} >= {("1", "add_"), ("1", "relu_"), ("1.act", "ReLU")}
    assert all(each.remainder < 1e-10 for each in report.transformations)
    assert report.forward_passes <= 60


class Dense(nn.Module):
    """Maps out of maps, by a skip, a pad and functions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.gelu(self.down(F.pad(x, (0, 0, 0, 0))))
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear")
        z = torch.cat([self.up(y), x], 1)
        z[:, :1] = 0.5 * z[:, 1:2]
        return {"map": z, "pooled": z.amax((2, 3)), "constant": torch.ones(3)}


def test_probes_estimate_what_all_directions_give() -> None:
    model = Dense()
    exact = local_equivariance_error(model, X, transformations=("scale",), probes=None, sizes=())
    probed = local_equivariance_error(model, X, transformations=("scale",), probes=64, sizes=())
    assert exact["scale"].remainder < 1e-10 > probed["scale"].remainder
    for one, two in zip(exact["scale"].steps, probed["scale"].steps, strict=True):
        assert abs(one.lee - two.lee) <= 5 * two.standard_error + 1e-20
    assert any(step.standard_error > 0 for step in probed["scale"].steps)


def test_finite_moves_tend_to_the_derivative() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for each in local_equivariance_error(model, X, sizes=(1e-5,)).transformations:
        assert each.finite[0].error / 1e-5 == pytest.approx(each.relative, rel=1e-2)


class Blobs(nn.Module):
    """A smooth function of images, around a convolution with the given kernel, under which the grid turns or does not."""

    def __init__(self, *rows: list[float], coordinates: bool = False) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.tensor(rows)[None, None])
        self.coordinates = coordinates

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.kernel))
        return x.square() * torch.linspace(0, 1, x.shape[-1]) if self.coordinates else x.square()


SYMMETRIC = ([1.0, 2.0, 1.0], [2.0, -7.0, 2.0], [1.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (Blobs(*SYMMETRIC), "discretisation: error falls with resolution"),
        (Blobs(*SYMMETRIC, coordinates=True), "no discretisation"),
        (Blobs([0.0, 0.0, 0.0], [-1.0, 0.2, 1.0], [0.0, 0.0, 0.0]), "no discretisation"),
    ],
)
def test_an_error_of_the_grid_falls_with_resolution(model: nn.Module, cause: str) -> None:
    r = (torch.arange(32, dtype=torch.float64) - 15.5) / 32
    y, x = torch.meshgrid(r, r, indexing="ij")
    blobs = torch.exp(-80 * ((x - 0.12) ** 2 + (y + 0.05) ** 2)) - torch.exp(-90 * ((x + 0.1) ** 2 + (y - 0.1) ** 2))
    report = local_equivariance_error(
        model, blobs[None, None], transformations=("rotation",), derivative="spectral", sizes=(), finer=True
    )
    found = report["rotation"].cause
    assert found is not None
    assert found.startswith(cause)
    assert found in str(report)
    assert local_equivariance_error(model, blobs[None, None], sizes=())["rotation"].cause is None


def test_a_model_of_one_size_has_no_finer_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(512, 2))
    assert local_equivariance_error(model, X, sizes=(), finer=True)["rotation"].finer is None


def test_differences_take_the_place_of_what_has_no_forward_derivative() -> None:
    class Sampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = F.affine_grid(torch.eye(2, 3)[None].expand(len(x), 2, 3) * 0.7, list(x.shape), align_corners=True)
            return F.grid_sample(x, grid, align_corners=True).mean((2, 3))

    report = local_equivariance_error(Sampled(), X, transformations=("rotation",))
    assert report.method == "central differences"
    assert report["rotation"].relative > 1e-2
    assert report["rotation"].remainder < 1e-7


def test_the_model_is_left_as_it_was_and_the_report_is_data() -> None:
    model = cnn().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = local_equivariance_error(model, X.float(), transformations=("rotation",))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    data = json.loads(report.to_json())
    assert data["format"] == "relaxify-images/1"
    assert data["transformations"][0]["steps"][0]["op"] == "Conv2d"
    assert "rotation: LEE" in str(report)


@pytest.mark.parametrize(
    ("model", "images", "keywords", "message"),
    [
        (nn.Identity(), torch.ones(3, 4), {}, "images have shape"),
        (nn.Identity(), X, {"derivative": "forward"}, "derivative='forward' is unknown"),
        (nn.Identity(), X, {"probes": 1}, "give at least two, or None"),
        (nn.Flatten(0), X, {}, "the model returns"),
        (nn.Identity(), X, {"transformations": ("zoom",)}, "there is no transformation 'zoom'"),
    ],
)
def test_bad_input_is_told(model: nn.Module, images: Tensor, keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_equivariance_error(model, images, **keywords)


def test_images_that_are_mixed_or_without_effect_are_told() -> None:
    class Summed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(0)

    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 2)

    with pytest.raises(ValueError, match="3 images are not apart; pass them one at a time"):
        local_equivariance_error(Summed(), X)
    with pytest.raises(ValueError, match="does not depend on the images"):
        local_equivariance_error(Deaf(), X)
