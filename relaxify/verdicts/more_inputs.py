"""Outputs with too few entries to tell: on many inputs near the given one, is there any linear map from f(x) to f(g x)?

If there is none, no representation carries the output, and it is broken. If there is one, it stays undecided: near one input
much is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from relaxify.graph.inputs import Inputs, InputsError
from relaxify.verdicts.candidates import Way
from relaxify.verdicts.judging import Judged
from relaxify.verdicts.orbits import Orbit, finite
from relaxify.verdicts.verdict import Reason, Status

LARGEST = 16
"""Entries of an output: twice as many inputs are run."""

MISFIT = 1e-3
"""Of how much the output varies: what is this far from linear is so by more than rounding."""

OrbitOf = Callable[[Inputs], Orbit]


def is_few(found: Judged, value: Tensor | None) -> bool:
    """Whether an output has too few entries to tell, and so few that more inputs can."""
    is_small = value is not None and 0 < value.numel() <= LARGEST and not value.is_complex()
    return is_small and found.status is Status.UNDECIDED and found.reason is Reason.FEW


def told_by_more(outputs: Sequence[Judged], few: Sequence[str], inputs: Sequence[Inputs], orbit: OrbitOf) -> list[Judged]:
    """The `few` outputs as broken if, from these inputs x, no linear map takes f(x) to f(g x) for the g of an orbit."""
    orbits: list[Orbit] = []
    for each in inputs:
        with suppress(InputsError):
            orbits.append(orbit(each))
    return [_broken(each) if each.name in few and not _is_linear(each.name, orbits) else each for each in outputs]


def _broken(found: Judged) -> Judged:
    way = Way("vector", found.way.axes) if found.way.axes else Way("invariant")
    return replace(found, way=way, status=Status.BROKEN, reason=Reason.ERROR)


def _is_linear(name: str, orbits: Sequence[Orbit]) -> bool:
    """Whether one matrix for each g takes the output on all x to that on g x; yes if there are not enough to tell."""
    shape = orbits[0].values[name].shape if orbits else None
    same = [each for each in orbits if all(_fits(values.get(name), shape) for values in _all(each))]
    if not same or len(same) < 2 * same[0].values[name].numel():
        return True
    before = torch.stack([each.values[name].double().flatten() for each in same])
    varies = float((before - before.mean(0)).norm())
    for number in range(len(same[0].moved)):
        after = torch.stack([each.moved[number].values[name].double().flatten() for each in same])
        misfit = after - before @ torch.linalg.lstsq(before, after, driver="gelsd").solution
        if float(misfit.norm()) > MISFIT * varies:
            return False
    return True


def _all(each: Orbit) -> list[dict[str, Tensor]]:
    return [dict(values) for values in (each.values, *(run.values for run in each.moved))]


def _fits(value: Tensor | None, shape: torch.Size | None) -> bool:
    return value is not None and value.shape == shape and finite(value)
