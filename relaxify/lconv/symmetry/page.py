"""A symmetry as one HTML page: its verdict in words, the spectrum with its gap, its generators, and what their flows do."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from relaxify.lconv.operators import Generators
from relaxify.lconv.symmetry.drawings import LARGEST, image, matrix, orbits, spectrum
from relaxify.pages import template

MOST_GENERATORS, MOST_DOTS, ORBITS, POINTS = 6, 150, 5, 49
FRAMES = (-1.0, -0.5, 0.0, 0.5, 1.0)
LARGEST_MATRIX = 1024


@runtime_checkable
class Reported(Protocol):
    """What a page shows: every way in which symmetries are found reports so much."""

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
    made = {
        "relaxify": importlib.metadata.version("relaxify"),
        "torch": torch.__version__,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    source, _, verdict = lines[0].partition(": ")
    values = report.spectrum
    return template("symmetry").render(
        title=verdict,
        found=report.found,
        source=source,
        reason=lines[1].strip(),
        facts=[line.strip() for line in lines[2:]],
        header={**(header or {}), **shape, **made},
        spectrum=None if values is None or not len(values) else spectrum(values, report.dimension, report.gap),
        directions=0 if values is None else len(values),
        dimension=report.dimension,
        pictures=list(_pictures(report, samples)),
        averaged=report.dimension and math.prod(report.as_operators().space or (0,)) > LARGEST,
        largest=LARGEST,
    )


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
    if samples.ndim == 4 and samples.shape[1] == 1:
        yield from _frames(family, chosen, samples[len(samples) // 2], None if matrices is None else matrices[index])
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


def _time(L: Float[Tensor, "d d"] | None) -> float:
    """Half a turn where it turns, and a doubling where it grows."""
    if L is None:
        return 0.5
    values = torch.linalg.eigvals(L)
    turning, growing = float(values.imag.abs().max()), float(values.real.abs().max())
    largest = max(turning / math.pi, growing / math.log(2))
    return 1 / largest if largest > 1e-6 * float(L.norm()) else 1 / max(float(L.norm()), 1e-12)


def _frames(family: Generators, chosen: Tensor, sample: Tensor, L: Tensor | None) -> Iterator[tuple[Markup, str]]:
    lowest, highest, time = float(sample.min()), float(sample.max()), _time(L)
    for share in FRAMES:
        if L is None:
            moved = family.expm_apply(share * time * chosen, sample[None])
        else:
            moved = torch.linalg.matrix_exp(share * time * L) @ sample.flatten()
        words = f"t = {share * time:.3g}"
        yield image(moved.reshape(sample.shape)[0], f"flow to {words}", lowest, highest), words


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
