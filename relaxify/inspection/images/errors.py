"""local_equivariance_error: how far a model is from commuting with small moves of its images, and which layers are to blame.

L_X f(x) = Df(x)[X x] - X f(x), LEE = E|L_X f|^2 / dim (Gruver et al. 2023). X moves every map by the same physical flow,
whatever its resolution, and what has no pixels (vectors, logits) not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.graph.precision import quiet
from relaxify.grids.derivatives import Scheme
from relaxify.grids.flows import Flow, PixelPositions, flows_of, is_map
from relaxify.grids.resampling import refined, resample
from relaxify.inspection.derivatives import Curve, Differentiation, best_method, floating
from relaxify.inspection.images import attribution
from relaxify.inspection.images.attribution import STEP, Motion
from relaxify.inspection.images.image_report import FiniteError, ImageReport, StepTerm, TransformationReport
from relaxify.inspection.images.steps import Step, run
from relaxify.modules.hanging import probe

TRANSFORMATIONS = ("translation", "rotation", "scale", "shear")


def local_equivariance_error(
    model: nn.Module,
    images: Float[Tensor, "..."],
    *,
    transformations: Sequence[str] = TRANSFORMATIONS,
    derivative: str = "central",
    probes: int | None = 16,
    sizes: Sequence[float] = (0.01, 0.05),
    finer: bool = False,
) -> ImageReport:
    """LEE of a model under translation, rotation, scaling and shear of its images, and the part of each layer in it.

    - `images`: (batch, channels, height, width).
    - `transformations`: names among translation, rotation, scale, shear; also translation_x and so on. The unit of lengths
      is the image's longer side, that of angles one radian.
    - `derivative`: "spectral" for periodic images (and circular padding), "central" for all others.
    - `probes`: the steps' share in the output's error is estimated along this many random directions; it is exact if the
      output has no more numbers for each image, or for None. Each takes one backward pass.
    - `sizes`: t of the finite moves whose errors are measured too, with a resampler that agrees with the derivative.
    - `finer`: measure the error on the images at twice their resolution as well, where the model takes any size: an error of
      the pixel grid alone falls. (So does that of a kernel, which looks at a smaller part of the image: in proportion.)

    The model is run in float64, in eval mode, and is not changed. ValueError if images have another number of axes, or do
    not stay apart in the model.

    >>> report = local_equivariance_error(nn.Conv2d(1, 2, 3, padding=1), torch.randn(2, 1, 16, 16), sizes=())
    >>> report["translation_x"].interior < 1e-12 < report["rotation"].interior
    True
    """
    scheme = _checked(images, derivative, probes)
    flows = flows_of(transformations)
    with quiet():
        measured = _Measurement(model, images, scheme)
        report = measured.report(flows, probes, sizes)
        return replace(report, transformations=_with_finer(measured, flows, report)) if finer else report


def _checked(images: Tensor, derivative: str, count: int | None) -> Scheme:
    if images.ndim != 4 or not images.is_floating_point() or not is_map(images):
        raise ValueError(f"images have shape {tuple(images.shape)}; pass (batch, channels, height, width) of floats.")
    if count is not None and count < 2:
        raise ValueError(f"probes={count}: give at least two, or None to be exact.")
    if derivative not in get_args(Scheme):
        raise ValueError(f"derivative={derivative!r} is unknown; pass 'central', or 'spectral' for periodic images.")
    return cast("Scheme", derivative)


def _with_finer(measured: _Measurement, flows: Sequence[Flow], report: ImageReport) -> tuple[TransformationReport, ...]:
    """The relative errors at twice the resolution, next to those that were found."""
    try:
        twin = _Measurement(measured.model, refined(measured.images, measured.scheme), measured.scheme)
    except (RuntimeError, ValueError):
        # it takes images of one size only
        return report.transformations
    return tuple(replace(each, finer=twin.relative(flow)) for each, flow in zip(report.transformations, flows, strict=True))


class _Measurement:
    """One recorded run of a model, and what is derived from it."""

    def __init__(self, model: nn.Module, images: Tensor, scheme: Scheme) -> None:
        self.name = type(model).__name__
        self.model = probe(model).requires_grad_(False).eval()
        self.images = images.detach().cpu().double()
        self.scheme = scheme
        with torch.enable_grad():
            output, self.steps = run(self.model, (self.images.clone().requires_grad_(),))
        self.outputs = [value for value in floating(output) if value.requires_grad]
        self.values = [value.detach() for value in self.outputs]
        self.kept = [place for place, value in enumerate(floating(output)) if value.requires_grad]
        if not self.outputs:
            raise ValueError(f"the output of {self.name} does not depend on the images; there is nothing to measure.")
        attribution.check_batched(self.steps, self.outputs, len(images))
        self.positions = PixelPositions(*self.images.shape[-2:])
        attribution.learn_positions(self.positions, self.steps)
        self.size = sum(value[0].numel() for value in self.outputs)

    def report(self, flows: Sequence[Flow], count: int | None, sizes: Sequence[float]) -> ImageReport:
        motions = [Motion(flow, self.positions, self.scheme) for flow in flows]
        derive, method = best_method(self._curve(motions[0]), STEP)
        along = list(attribution.directions(count, len(self.images), self.size))
        exact = count is None or self.size <= count
        reports = []
        terms = [self._own_terms(step, motions, derive) for step in self.steps]
        at_output = torch.stack([attribution.carried(self.outputs, self.steps, terms, z) for z in along], dim=-1)
        for k, (motion, found) in enumerate(zip(motions, at_output, strict=True)):
            own = [[value[k] for value in of_step] for of_step in terms]
            lie = self._lie_derivative(motion, derive)
            steps = tuple(
                self._step(step, of_step, inner, exact) for step, of_step, inner in zip(self.steps, own, found, strict=True)
            )
            errors = tuple(FiniteError(t, self._finite_error(motion.flow, t)) for t in sizes)
            rest = _remainder(lie, self.outputs, found.sum(0), along)
            reports.append(self._transformation(motion.flow.name, lie, steps, errors, rest))
        passes = 5 + (2 + len(sizes)) * len(flows) + len(along)
        shape = tuple(self.images.shape)
        return ImageReport(self.name, shape, self.scheme, method, tuple(reports), len(along), exact, passes)

    def _own_terms(self, step: Step, motions: Sequence[Motion], derive: Differentiation) -> list[Tensor]:
        """L f of each output of a step, all flows stacked."""
        terms = [attribution.own_term(step, motion, derive) for motion in motions]
        return [torch.stack(of_output) for of_output in zip(*terms, strict=True)]

    def relative(self, flow: Flow) -> float:
        """|L f| / |f|."""
        motion = Motion(flow, self.positions, self.scheme)
        derive, _ = best_method(self._curve(motion), STEP)
        return _over(_norm(self._lie_derivative(motion, derive)), _norm(self.values))

    def _curve(self, motion: Motion) -> Curve:
        velocity = motion(self.images)
        return lambda t: self._outputs_on(self.images + t * velocity)

    def _outputs_on(self, images: Tensor) -> list[Tensor]:
        outputs = floating(self.model(images))
        return [outputs[place] for place in self.kept]

    def _lie_derivative(self, motion: Motion, derive: Differentiation) -> list[Tensor]:
        values, derivatives = derive(self._curve(motion))
        return [forward - motion(value) for value, forward in zip(values, derivatives, strict=True)]

    def _finite_error(self, flow: Flow, t: float) -> float:
        """|f(T_t x) - T_t f(x)| / |f(x)|."""
        matrix = flow.moved(t)
        with torch.no_grad():
            there = self._outputs_on(resample(self.images, matrix, self.positions, self.scheme))
        moved = [resample(value, matrix, self.positions, self.scheme) for value in self.values]
        return _over(_norm([a - b for a, b in zip(there, moved, strict=True)]), _norm(self.values))

    def _step(self, step: Step, own: Sequence[Tensor], inner: Float[Tensor, "images probes"], exact: bool) -> StepTerm:
        squares = inner.square().flatten()
        # unit vectors read off every component once, random ones estimate the sum of their squares
        lee = float(squares.mean()) / (1 if exact else self.size)
        spread = 0.0 if exact else float(squares.std()) / math.sqrt(len(squares)) / self.size
        relative, inside = _relative(own, step.outputs)
        return StepTerm(step.path, step.op, relative, inside, lee, spread)

    def _transformation(
        self, name: str, lie: Sequence[Tensor], steps: tuple[StepTerm, ...], errors: tuple[FiniteError, ...], rest: float
    ) -> TransformationReport:
        flat = torch.cat([value.reshape(len(self.images), -1) for value in lie], dim=1)
        of_images = flat.square().mean(1)
        spread = float(of_images.std()) / math.sqrt(len(of_images)) if len(of_images) > 1 else 0.0
        relative, inside = _relative(lie, self.values)
        return TransformationReport(name, float(of_images.mean()), spread, relative, inside, errors, steps, rest)


def _relative(lie: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[float, float | None]:
    """|L f| / |f|, and over the central half of the maps, if there are any."""
    inside = _over(_norm(_central(lie)), _norm(_central(values))) if any(map(is_map, lie)) else None
    return _over(_norm(lie), _norm(values)), inside


def _central(values: Sequence[Tensor]) -> list[Tensor]:
    """The central half of the maps, a quarter off each border."""
    return [
        value[..., h // 4 : h - h // 4, w // 4 : w - w // 4]
        for value in values
        if is_map(value)
        for h, w in [value.shape[-2:]]
    ]


def _remainder(
    lie: Sequence[Tensor], outputs: Sequence[Tensor], found: Float[Tensor, "images probes"], along: Sequence[Tensor]
) -> float:
    """How far the steps' terms are from adding up to the whole, along the probes."""

    def read(values: Sequence[Tensor]) -> Float[Tensor, "images probes"]:
        flat = torch.cat([value.detach().reshape(len(found), -1) for value in values], dim=1)
        return torch.stack([(z * flat).sum(1) for z in along], dim=-1)

    expected = read(lie)
    return _over(float((found - expected).norm()), float(expected.norm() + read(outputs).norm()))


def _norm(values: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in values))


def _over(distance: float, scale: float) -> float:
    return distance / scale if scale else 0.0 if not distance else math.inf
