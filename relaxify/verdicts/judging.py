"""What a tensor of the output comes to: as what it transforms, or nearest to what, and whether that is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relaxify.groups import Group
from relaxify.verdicts.candidates import Way, has_lost_a_sign, ways
from relaxify.verdicts.draws import is_orthogonal
from relaxify.verdicts.errors import MEANINGLESS, Carried, Distance, Fitted, Run, Setting, difference, runs_by, runs_expected
from relaxify.verdicts.fits import LARGEST_AXIS, products_change
from relaxify.verdicts.orbits import Moved, Orbit, finite
from relaxify.verdicts.outputs import is_measured
from relaxify.verdicts.verdict import Errors, OutputVerdict, Reason, Status

_OPEN = (Status.UNDECIDED, Reason.FEW)
UNKNOWN = "too few samples to tell"


@dataclass(frozen=True)
class Judged:
    """One tensor of the output."""

    name: str
    way: Way
    runs: tuple[Run, ...]
    status: Status
    reason: Reason


def judge(name: str, orbits: Sequence[Orbit], setting: Setting) -> Judged:
    """As what a tensor of the output transforms, with what error, and what that comes to."""
    if not all(_same_kind(each, name) for each in orbits):
        return Judged(name, Way("in shape only"), (), Status.BROKEN, Reason.SHAPES)
    value = orbits[0].values[name]
    if not all(finite(seen) for each in orbits for _, seen in each.of(name)):
        return Judged(name, Way("not finite"), (), Status.UNDECIDED, Reason.NOT_FINITE)
    if any(run.expected is not None for each in orbits for run in each.moved):
        return _concluded(
            Judged(name, Way("as the output action says"), runs_expected(name, orbits, setting), *_OPEN), orbits
        )
    if (way := orbits[0].ways.get(name)) is not None:
        return _concluded(Judged(name, way, runs_by(name, orbits, setting, Carried(name, way)), *_OPEN), orbits)
    if not value.numel():
        return Judged(name, Way("invariant"), (), Status.UNDECIDED, Reason.SILENT)
    nearest: Judged | None = None
    for way in ways(setting.group, value, setting.places(value)):
        found = Judged(name, way, runs_by(name, orbits, setting, Carried(name, way)), *_OPEN)
        if _passes(found):
            return _with_its_sign(_concluded(found, orbits), setting.group)
        nearest = found if nearest is None or _worst(found) < _worst(nearest) else nearest
    assert nearest is not None
    if not is_measured(value):
        return replace(nearest, status=Status.BROKEN, reason=Reason.ERROR)
    return _concluded(_fitted(name, orbits, setting, nearest), orbits)


def _with_its_sign(found: Judged, group: Group) -> Judged:
    if found.status is Status.SOUND and has_lost_a_sign(group, found.way):
        return replace(found, status=Status.UNDECIDED, reason=Reason.SIGN)
    return found


def _fitted(name: str, orbits: Sequence[Orbit], setting: Setting, nearest: Judged) -> Judged:
    """The representation that a value carries on one of its axes, if one fits; else what it comes nearest to."""
    value, orthogonal = orbits[0].values[name], is_orthogonal(setting.group.of_features)
    can_tell = orthogonal or not _fitted_ways(value, setting.places(value))
    for way in _fitted_ways(value, setting.places(value)):
        carried = Fitted(name, way, orthogonal)
        runs = runs_by(name, orbits, setting, carried)
        enough = all(found.vectors >= 2 * found.dimension for found in carried.fits)
        found = Judged(name, way, runs, *_OPEN)
        if _passes(found) and (orthogonal or enough):
            if _is_the_vector(setting.group, orbits, carried):
                return replace(nearest, way=Way("vector in another basis", way.axes), reason=Reason.CONVENTION)
            if _is_discrete(name, orbits):
                return nearest
            return found
        can_tell = can_tell or enough or value.shape[way.axes[0]] in setting.sizes
        if enough and value.shape[way.axes[0]] != setting.group.vector_size and 10 * _worst(found) < _worst(nearest):
            nearest = found
    if _is_scattered(name, orbits, setting):
        return replace(nearest, way=Way("vectors across its axes"), reason=Reason.CONVENTION)
    if not can_tell or (orthogonal and _keeps_products(name, orbits, setting)):
        return replace(nearest, status=Status.UNDECIDED, reason=Reason.FEW, way=replace(nearest.way, name=UNKNOWN))
    return nearest


def _fitted_ways(value: Tensor, places: Sequence[Way]) -> list[Way]:
    return [
        replace(place, name=f"{value.shape[axis]}-dimensional", axes=(axis,), fitted=True)
        for place in (Way(""), *places)
        for axis in range(-1, -value.ndim - 1, -1)
        if axis not in place.axes and 1 < value.shape[axis] <= LARGEST_AXIS
    ]


def _is_the_vector(group: Group, orbits: Sequence[Orbit], carried: Fitted) -> bool:
    """Whether what is fitted on an axis of the group's own size is the vector, up to the basis."""
    draws = [run.g for each in orbits for run in each.moved]
    if carried.fits[0].dimension != group.vector_size or any(_is_complex(found.matrix) for found in carried.fits):
        # spherical components (x - iy, z, x + iy) are a basis that is meant
        return False
    traces = [
        (float(found.matrix.real.trace()), float(g.matrix.diagonal()[: group.vector_size].sum()))
        for found, g in zip(carried.fits, draws, strict=True)
    ]
    few = any(found.vectors < found.dimension for found in carried.fits)
    return few or all(abs(abs(a) - abs(b)) < 1e-3 for a, b in traces)


def _is_complex(matrix: Tensor) -> bool:
    return matrix.is_complex() and float(matrix.imag.norm()) > 1e-3 * float(matrix.norm())


def _is_discrete(name: str, orbits: Sequence[Orbit]) -> bool:
    """Whether small group elements leave alone what large ones move, as no representation of a Lie group does."""
    small = [
        float((run.values[name] - each.values[name]).norm())
        for each in orbits
        for run in each.moved
        if float((run.g.matrix - torch.eye(len(run.g.matrix), dtype=torch.float64)).norm()) < 0.5
    ]
    return bool(small) and not max(small) > 1e-9 * float(orbits[0].values[name].norm())


def _keeps_products(name: str, orbits: Sequence[Orbit], setting: Setting) -> bool:
    """Whether inner products of the whole tensor are kept: then it may carry a representation on several axes at once."""
    if orbits[0].values[name].ndim < 2:
        return False
    runs = runs_by(name, orbits, setting, lambda each, run: products_change(each.of(name), run.g))
    return all(run.is_within for run in runs)


def _is_scattered(name: str, orbits: Sequence[Orbit], setting: Setting) -> bool:
    """Whether the entries in their order are vectors, though on no axis: reshaped where axes had to be moved."""
    value, d = orbits[0].values[name], setting.group.vector_size
    if value.ndim < 2 or value.numel() % d or d < 2:
        return False
    return any(
        all(run.is_within and not run.is_silent for run in runs_by(name, orbits, setting, _scattered(name, shape, axis)))
        for shape, axis in (((-1, d), -1), ((d, -1), 0))
    )


def _scattered(name: str, shape: tuple[int, int], axis: int) -> Distance:
    way = Way("vector", (axis - 2 if axis >= 0 else axis,), lambda g: g[: shape[axis], : shape[axis]])

    def distance(each: Orbit, run: Moved) -> float:
        return difference(run.values[name].reshape(shape), way(run.g, each.values[name].reshape(shape)))

    return distance


def _same_kind(each: Orbit, name: str) -> bool:
    base = each.values.get(name)
    others = [run.values for run in each.moved] + [run.expected for run in each.moved if run.expected is not None]
    return base is not None and all(
        name in values and values[name].shape == base.shape and is_measured(values[name]) == is_measured(base)
        for values in others
    )


def _is_one_number(name: str, orbits: Sequence[Orbit]) -> bool:
    """Whether an integer or boolean output is the same number everywhere and always."""
    values = [value for each in orbits for _, value in each.of(name)]
    return not is_measured(values[0]) and all(bool((value == values[0].flatten()[0]).all()) for value in values)


def _passes(found: Judged) -> bool:
    return all(run.is_within for run in found.runs)


def _worst(found: Judged) -> float:
    return max((run.error for run in found.runs), default=0.0)


def _concluded(found: Judged, orbits: Sequence[Orbit]) -> Judged:
    if found.reason is Reason.FEW and found.way.name == UNKNOWN:
        return found
    if not _passes(found):
        is_known = found.reason is Reason.CONVENTION
        return replace(found, status=Status.BROKEN, reason=found.reason if is_known else Reason.ERROR)
    if _is_one_number(found.name, orbits):
        return replace(found, status=Status.UNDECIDED, reason=Reason.SILENT)
    # an element that changes nothing, as one that leaves the largest item where it is, says nothing either
    telling = [run.floor for run in found.runs if not run.is_silent]
    if telling and max(telling) <= MEANINGLESS:
        return replace(found, status=Status.SOUND, reason=Reason.EQUIVARIANT)
    reason = Reason.ROUNDING if telling else Reason.SILENT
    return replace(found, status=Status.UNDECIDED, reason=reason)


def in_precision(found: Judged, rough: Orbit, exact: Orbit, setting: Setting) -> tuple[float, float]:
    """The largest error in a lower precision, of transforming as was found, and |f - f in float64|: over the response."""
    name = found.name
    if not found.runs or not _same_kind(rough, name) or rough.values[name].shape != exact.values[name].shape:
        return float("nan"), float("nan")
    response = max(run.response for run in found.runs) or float("nan")
    fitted = (
        Fitted(name, found.way, is_orthogonal(setting.group.of_features)) if found.way.fitted else Carried(name, found.way)
    )
    if rough.moved[0].expected is not None:
        runs = runs_expected(name, [rough], setting)
    else:
        runs = runs_by(name, [rough], setting, fitted)
    rounding = difference(rough.values[name], exact.values[name])
    return max(run.distance for run in runs) / response, rounding / response


def output_verdict(found: Judged, orbits: Sequence[Orbit]) -> OutputVerdict:
    """What is told of one tensor of the output."""
    value = orbits[0].values[found.name]
    worst = max(found.runs, key=lambda run: run.error, default=None)
    size = float(value.to(torch.complex128).norm())
    response = max((run.response for run in found.runs), default=0.0)
    passes = found.status is not Status.BROKEN
    spread = Errors.of([run.error for run in found.runs])
    if found.reason is Reason.SILENT or not found.runs:
        # without a response an error is relative to nothing; what cannot be subtracted is wrong beyond measure
        error = float("inf") if found.reason is Reason.SHAPES else 0.0
        spread = Errors.of([error])
    return OutputVerdict(
        name=found.name,
        shape=tuple(value.shape),
        dtype=value.dtype,
        status=found.status,
        reason=found.reason,
        transforms=str(found.way) if passes or not found.runs else f"nearest to {found.way}",
        error=spread,
        tolerance=max((run.tolerance for run in found.runs if not run.is_silent), default=0.0),
        response=response / size if size else 0.0,
        element="" if worst is None else str(worst.g),
        by_element=() if found.reason is Reason.SILENT else tuple(_by_element(found).items()),
    )


def _by_element(found: Judged) -> dict[str, float]:
    """The largest error at elements that are told by the same words."""
    errors: dict[str, list[float]] = {}
    for run in found.runs:
        errors.setdefault(str(run.g), []).append(run.error)
    return {name: Errors.of(of_element).largest for name, of_element in errors.items()}
