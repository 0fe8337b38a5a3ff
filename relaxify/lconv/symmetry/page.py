"""A symmetry as one HTML page: its verdict in words, the spectrum with its gap, its generators, and what their flows do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from relaxify.lconv.operators import Generators
from relaxify.lconv.symmetry.drawings import LARGEST, MOST_BARS, image, matrix, orbits, spectrum
from relaxify.pages import template
from relaxify.rendered import made_with

MOST_GENERATORS, MOST_DOTS, ORBITS, POINTS = 6, 150, 5, 49
FRAMES = (-1.0, -0.5, 0.0, 0.5, 1.0)
LARGEST_MATRIX = 1024


@runtime_checkable
class Reported(Protocol):
    """What a page shows: every way in which symmetries are found reports so much."""

    @property
    def verdict(self) -> str: ...
    @property
    def found(self) -> bool: ...
    @property
    def dimension(self) -> int: ...
    @property
    def spectrum(self) -> Tensor | None: ...
    @property
    def gap(self) -> float | None: ...
    def as_operators(self) -> Generators: ...


@dataclass(frozen=True)
class Picture:
    """One generator: its matrix if it is small enough, and what its flow does to samples if there are any."""

    title: str
    matrix: Markup | None
    flow: Sequence[tuple[Markup, str]]


def page_of(
    report: Reported, lines: Sequence[str], samples: Tensor | None = None, header: Mapping[str, str] | None = None
) -> str:
    """The page. `lines` are the report's text, of which the first is the verdict and the second its reason."""
    shape = {} if samples is None else {"samples": f"{len(samples):,} of shape {_sizes(samples.shape[1:])}"}
    source, _, verdict = lines[0].partition(": ")
    values = report.spectrum
    return template("symmetry").render(
        title=verdict,
        found=report.found,
        is_open=report.verdict == "too few data",
        kept=_kept(report.dimension, 0 if values is None else len(values)),
        source=source,
        reason=lines[1].strip(),
        facts=[line.strip() for line in lines[2:]],
        header={**(header or {}), **shape, **made_with()},
        spectrum=None if values is None or not len(values) else spectrum(values, report.dimension, report.gap),
        directions=0 if values is None else len(values),
        dimension=report.dimension,
        pictures=list(_pictures(report, samples)),
        averaged=report.dimension and math.prod(report.as_operators().space or (0,)) > LARGEST,
        largest=LARGEST,
    )


def _kept(dimension: int, directions: int) -> str:
    """What is said of the spectrum."""
    kept = "The first is kept." if dimension == 1 else f"The first {dimension} are kept." if dimension else "None is kept."
    return f"{kept} The first {MOST_BARS} are drawn." if directions > MOST_BARS else kept


def _pictures(report: Reported, samples: Tensor | None) -> Iterator[Picture]:
    if not report.dimension:
        return
    family = report.as_operators().to(torch.float64)
    space = family.space or (None if samples is None else tuple(samples.shape[2:]))
    small = space is not None and math.prod(space) <= LARGEST_MATRIX
    matrices = family.dense(space) if small else None
    for index in range(min(report.dimension, MOST_GENERATORS)):
        drawn = None if matrices is None else matrix(matrices[index], f"generator {index + 1}")
        flow = [] if samples is None else list(_flow(family, index, samples.detach().double(), matrices))
        yield Picture(f"L{index + 1}", drawn, flow)


def _flow(family: Generators, index: int, samples: Tensor, matrices: Tensor | None) -> Iterator[tuple[Markup, str]]:
    """Frames of an image, or orbits in the plane where the generator moves most."""
    chosen = torch.nn.functional.one_hot(torch.tensor(index), family.count).double()
    if samples.ndim == 4:
        yield from _frames(family, chosen, _typical(samples), None if matrices is None else matrices[index])
    elif matrices is not None and matrices.shape[-1] == samples.shape[-1] and matrices.shape[-1] > 1:
        L = matrices[index]
        X, plane = samples.flatten(0, -2), torch.linalg.svd(L).U[:, :2]
        dots = X[:: max(1, len(X) // MOST_DOTS)][:MOST_DOTS]
        starts = _spread_by_size(X @ plane, X)
        times = torch.linspace(-1, 1, POINTS).double() * _time(L)
        paths = torch.stack([starts @ torch.linalg.matrix_exp(t * L).mT @ plane for t in times])
        yield orbits(dots @ plane, paths, f"orbits of generator {index + 1}"), f"|t| up to {_time(L):.3g}"


def _spread_by_size(seen: Float[Tensor, "many 2"], X: Float[Tensor, "many d"]) -> Float[Tensor, "orbits d"]:
    """Some samples from near to far, as they are seen."""
    order = seen.norm(dim=1).argsort()
    return X[order[torch.linspace(0.15, 0.9, ORBITS).mul(len(order) - 1).long()]]


def _time(L: Float[Tensor, "d d"]) -> float:
    """Half a turn where it turns, and a doubling where it grows; the shorter of the two where it does both."""
    values = torch.linalg.eigvals(L)
    turning, growing = float(values.imag.abs().max()), float(values.real.abs().max())
    largest = max(turning / math.pi, growing / math.log(2))
    return 1 / largest if largest > 1e-6 * float(L.norm()) else 1 / max(float(L.norm()), 1e-12)


def _frames(family: Generators, chosen: Tensor, sample: Tensor, L: Tensor | None) -> Iterator[tuple[Markup, str]]:
    """An image, its channels averaged, at several times."""
    shown, speed = sample.mean(0), family.act(sample[None]).flatten(1).mT @ chosen
    # till about as much has changed as there is
    time = float(sample.norm() / speed.norm().clamp(min=1e-12))
    lowest, highest = float(shown.min()), float(shown.max())
    for share in FRAMES:
        if L is None:
            moved = family.expm_apply(share * time * chosen, sample[None])
        else:
            moved = sample.flatten(1) @ torch.linalg.matrix_exp(share * time * L).mT
        words = f"t = {share * time:.3g}"
        yield image(moved.reshape(sample.shape).mean(0), f"flow to {words}", lowest, highest), words


def _typical(images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "channels height width"]:
    """One of median contrast, so that no blank one is shown."""
    contrast = images.flatten(1).std(1)
    return images[int(contrast.argsort()[len(contrast) // 2])]


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
