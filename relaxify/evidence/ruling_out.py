"""Which axes carry no representation, from a few samples of a large value."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from relaxify.evidence.transformations import LARGEST_AXIS, TOLERANCE, Axes, Norms, Pairs, places


class Sampled:
    """A few samples of large values: where these alone fit worse than `fit` grants all of them, so do all.

    A sound value is fitted on several axes before the right one is found, and wrong ones cost as much as that. Looked at are
    the runs on the first `count` elements.
    """

    def __init__(self, pairs: Pairs, norms: Norms, count: int) -> None:
        self.pairs = pairs
        self.norms = norms
        self.runs = [[runs[e] for _, runs in pairs] for e in range(count)]
        self.is_alike = all(base.shape == pairs[0][0].shape for base, _ in pairs)

    @functools.cached_property
    def _granted(self) -> list[float]:
        """The largest misfit for each element."""
        return [TOLERANCE * math.hypot(*map(self.norms, of_element)) for of_element in self.runs]

    def misfit(self, axes: Axes, *, of_all: bool = False) -> float | None:
        """How far a few samples are from any linear map on the axes, relative to their size; None if that may be rounding.

        Few samples take as long as a fit; `of_all` looks at these too.
        """
        shape = self.pairs[0][0].shape
        d = math.prod(shape[axis] for axis in axes)
        each, wanted = self.pairs[0][0].numel() // d, 2 * d + 16
        if not self.is_alike or d > LARGEST_AXIS or each < (d + 1 if of_all else 8 * wanted):
            return None
        free = tuple(size for axis, size in enumerate(shape, -len(shape)) if axis not in axes)
        index, last = places((each, min(each, wanted)), 0, free), tuple(range(-len(axes), 0))

        def rows(values: Iterable[Tensor]) -> Tensor:
            return torch.cat([value.movedim(axes, last)[index].reshape(-1, d) for value in values])

        # where rows are dependent, this is more than their span, and the misfit too small
        span = torch.linalg.qr(rows(base for base, _ in self.pairs)).Q
        largest = None
        for of_element, granted in zip(self.runs, self._granted, strict=True):
            moved = rows(of_element)
            misfit, size = float((moved - span @ (span.mT @ moved)).norm()), float(moved.norm())
            # twice: least squares over all samples fits these worse, and nothing fits them better
            if misfit > 2 * granted:
                largest = max(largest or 0.0, misfit / size)
        return largest
