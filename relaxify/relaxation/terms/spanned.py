"""What a record says of a derived weight: coefficients of a basis, one for each pair of copies, if it is of that form.

It is found by probing, as the structure of kernels is, so that a checkpoint folds without the code that made the weight.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.relaxation.terms.derived_fold import Expansion
from relaxify.relaxation.terms.kernel_fields import ROUNDING, kernel_fields, kinds_of
from relaxify.sites import EquivariantMap
from relaxify.spans import Span

MOST_ENTRIES = 2**14
"""Of the matrices of a basis, which a record holds."""


@torch.no_grad()
def spans_of(found: Expansion, map_: EquivariantMap) -> tuple[Span, ...]:
    """The weight as coefficients of a basis, one for each pair of copies; nothing if it is of no such form."""
    kinds = kinds_of(map_.rep_out), kinds_of(map_.rep_in)
    with torch.enable_grad():
        point = torch.zeros(found.size, dtype=torch.float64, requires_grad=True)
        value = found.matrix(point)
    fields = kernel_fields(
        found.matrix, lambda y: torch.autograd.grad(value, point, y, retain_graph=True)[0], found.size, *kinds
    )
    if fields is None or (fields.table < 0).any() or len(fields.bases) != 1:
        return ()
    (basis,) = fields.bases.values()
    spans = [_span(found, places, matrix) for places, matrix in zip(fields.table.unbind(2), basis, strict=True)]
    whole = tuple(span for span in spans if span is not None)
    is_told = len(whole) == len(spans) and sum(len(span.entries) for span in whole) <= MOST_ENTRIES
    return whole if is_told else ()


def _span(found: Expansion, places: Int[Tensor, "outs ins"], matrix: Float[Tensor, "d_out d_in"]) -> Span | None:
    first = int(places[0, 0])
    out, into = (int(there[1] - first) if len(there) > 1 else 0 for there in (places[:, 0], places[0]))
    rows, columns = (torch.arange(size) for size in places.shape)
    starts = dict(zip(found.shapes, itertools.accumulate(map(math.prod, found.shapes.values()), initial=0), strict=False))
    name = max((name for name, start in starts.items() if start <= first), key=lambda name: starts[name])
    is_regular = torch.equal(places, first + out * rows[:, None] + into * columns) and out >= 0 and into >= 0
    if not is_regular or int(places[-1, -1]) >= starts[name] + math.prod(found.shapes[name]):
        return None
    kept = (matrix.abs() > ROUNDING * matrix.abs().max()).nonzero().tolist()
    return Span(name, first - starts[name], out, into, tuple((i, j, float(matrix[i, j])) for i, j in kept))
