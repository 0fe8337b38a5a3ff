"""Drawings of a symmetry as inline SVG, which need no network: matrices, images, the spectrum, and orbits in a plane.

Colours are the page's own variables, so that a drawing follows the reader's scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional as F

LARGEST = 32
"""Rows and columns that are drawn; larger matrices are averaged to as many."""

FAINTEST = 0.02
MOST_BARS = 60
DECADES = 4
WIDTH, HEIGHT, MARGIN = 640, 190, 44


def matrix(values: Float[Tensor, "rows columns"], title: str) -> Markup:
    """Positive entries in one colour and negative ones in the other, as deep as they are large."""
    values = _small(values)
    deepest = float(values.abs().max()) or 1.0
    rows, columns = values.shape
    cells = (
        f'<rect x="{column}" y="{row}" width="1" height="1" '
        f'fill="var(--{"high" if value > 0 else "low"})" opacity="{abs(value):.2f}"/>'
        for row, line in enumerate((values / deepest).tolist())
        for column, value in enumerate(line)
        if abs(value) >= FAINTEST
    )
    return _svg(columns, rows, "cells", title, cells)


def image(values: Float[Tensor, "rows columns"], title: str, lowest: float, highest: float) -> Markup:
    """In the colour of ink, between a lowest value, which is blank, and a highest."""
    values = ((_small(values) - lowest) / max(highest - lowest, 1e-30)).clamp(0, 1)
    rows, columns = values.shape
    cells = (
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="var(--ink)" opacity="{value:.2f}"/>'
        for row, line in enumerate(values.tolist())
        for column, value in enumerate(line)
        if value >= FAINTEST
    )
    return _svg(columns, rows, "cells", title, cells)


def spectrum(values: Float[Tensor, " directions"], kept: int, gap: float | None) -> Markup:
    """How much each direction is broken, on a logarithmic scale, with the gap after those that are kept."""
    shown = values[:MOST_BARS].double()
    top = math.ceil(math.log10(max(float(shown.max()), 1e-12)) + 1e-9)
    # the smallest is a bar as well, and no line
    bottom = max(math.floor(math.log10(max(float(shown.min()), 1e-12)) - 0.3), top - DECADES)
    step = (WIDTH - MARGIN) / len(shown)

    def height(value: float) -> float:
        share = (math.log10(max(value, 1e-300)) - bottom) / max(top - bottom, 1)
        return HEIGHT * (1 - min(max(share, 0.01), 1.0)) + 12

    floor = HEIGHT + 12
    parts = [
        f'<line x1="{MARGIN}" x2="{WIDTH}" y1="{height(10.0**k):.1f}" y2="{height(10.0**k):.1f}" stroke="var(--line)"/>'
        f'<text x="{MARGIN - 6}" y="{height(10.0**k) + 4:.1f}" text-anchor="end">{10.0**k:g}</text>'
        for k in range(bottom, top + 1)
    ]
    bar = min(0.8 * step, 24)
    for index, value in enumerate(shown.tolist()):
        left, y = MARGIN + (index + 0.5) * step - bar / 2, height(value)
        colour = "low" if index < kept else "high"
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{floor - y:.1f}" fill="var(--{colour})">'
            f"<title>{index + 1}: {value:.3g}</title></rect>"
        )
    if gap is not None and 0 < kept < len(shown):
        parts += _gap(MARGIN + kept * step, gap)
    return _svg(WIDTH, HEIGHT + 24, "chart", "spectrum", parts)


def _gap(x: float, gap: float) -> Iterable[str]:
    anchor, offset = ("end", -6) if x > WIDTH / 2 else ("start", 6)
    words = f"gap × {gap:.3g}" if math.isfinite(gap) else "gap: none of the kept is broken at all"
    yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{HEIGHT + 12}" stroke="var(--ink)" stroke-dasharray="4 3"/>'
    yield f'<text x="{x + offset:.1f}" y="11" text-anchor="{anchor}" class="mark">{words}</text>'


def orbits(points: Float[Tensor, "samples 2"], paths: Float[Tensor, "times orbits 2"], title: str) -> Markup:
    """Samples as dots, and where the flow takes some of them as lines from a ringed start, with arrows along time."""
    reach = 1.1 * float(torch.quantile(points.abs().amax(1), 0.98)) or 1.0
    points, paths = ((100 + 100 * each / reach * torch.tensor([1.0, -1.0]).to(each)) for each in (points, paths))
    parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.3" fill="var(--ink)" opacity=".3"/>' for x, y in points.tolist()]
    for path in paths.transpose(0, 1):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path.tolist())
        x, y = path[len(path) // 2].tolist()
        parts.append(f'<polyline points="{line}" fill="none" stroke="var(--high)" stroke-width="1.4"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="var(--paper)" stroke="var(--high)"/>')
        parts.append(_arrow(path, 5 * len(path) // 8))
    return _svg(200, 200, "orbits", title, parts)


def _arrow(path: Float[Tensor, "times 2"], at: int) -> str:
    """Where a path goes as time goes on."""
    tip, along = path[at], path[at] - path[at - 1]
    along = 5 * along / along.norm().clamp(min=1e-9)
    across = along.flip(0) * along.new_tensor([-0.5, 0.5])
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip + along, tip + across, tip - across))
    return f'<polygon points="{corners}" fill="var(--high)"/>'


def _small(values: Float[Tensor, "many more"]) -> Float[Tensor, "rows columns"]:
    rows, columns = (min(size, LARGEST) for size in values.shape)
    return F.adaptive_avg_pool2d(values.detach().double()[None], (rows, columns))[0]


def _svg(width: int, height: int, kind: str, title: str, parts: Iterable[str]) -> Markup:
    """Parts are made of numbers alone; a title may be anything."""
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, title, Markup("".join(parts))
    )
