"""Whether a file is what another converts to: the conversion is planned as ever, and then compared instead of written."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from relaxify.checkpoint.comparing import Comparison, Difference, compare_states
from relaxify.checkpoint.container import Checkpoint, state_dicts
from relaxify.checkpoint.data import Made
from relaxify.checkpoint.formats import container_at, opened
from relaxify.checkpoint.plan import Conversion, Mode, Options, StatePlan, plan_states
from relaxify.checkpoint.rest import UNREAD
from relaxify.checkpoint.state import StateDict, Stored

ROUNDING = 4
"""Of the dtype's precision: what is computed may be rounded otherwise on another machine."""


@dataclass(frozen=True)
class Checked:
    """What `check_converted` found: the conversion that would be made, how the file differs from it, and in what else.

    `rest` are the names of contents other than tensors in state dicts.
    """

    conversion: Conversion
    comparison: Comparison
    rest: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether the file is what its source converts to."""
        return self.comparison.is_equal and not self.rest


def check_converted(
    source: Path | str,
    target: Path | str,
    *,
    mode: Mode = "drop",
    max_theta: float | None = None,
    strip_prefix: bool = False,
    prefix: str = "",
    key: str = "",
) -> Checked:
    """Whether `target` is what `convert` makes of `source` with these options. Nothing is written.

    Tensors must be the same, those that are computed up to rounding, and so must whatever else both kinds of files hold.
    CheckpointError if one of them cannot be read, or there is nothing to convert.
    """
    options = Options(mode, max_theta, strip_prefix, prefix, key)
    with opened(Path(source)) as (path, whole), opened(Path(target)) as (written, other):
        checkpoint = whole.chosen(key) if key else whole
        plans = plan_states(checkpoint.states, options)
        nested = container_at(written).nested
        comparison = compare_states((path, _expected(checkpoint, plans, nested)), (written, state_dicts(other)))
        rounded = {new for plan in plans for key, new in plan.renamed().items() if key in plan.targets}
        conversion = Conversion(path, written, mode, tuple(plan.report for plan in plans))
        rest = _rest(checkpoint, plans, other) if nested and container_at(path).nested else []
        return Checked(conversion, _without_rounding(comparison, rounded), tuple(rest))


def _expected(checkpoint: Checkpoint, plans: Sequence[StatePlan], nested: bool) -> list[StateDict]:
    planned = {plan.state.where for plan in plans}
    others = [state for state in state_dicts(checkpoint) if state.where not in planned] if nested else []
    return [*(_converted(plan, nested) for plan in plans), *others]


def _converted(plan: StatePlan, nested: bool) -> StateDict:
    old = {new: key for key, new in plan.renamed().items()}
    state = plan.state

    def stored(new: str) -> Stored:
        found = state.stored(old[new])
        made = Made(found.data.size, functools.partial(plan.load, old[new]))
        return replace(found, data=made) if old[new] in plan.targets else found

    shapes = {new: state.shapes[key] for new, key in old.items()}
    return StateDict(shapes, lambda new: plan.load(old[new]), stored, state.where if nested else (), {}, state.file_size)


def _without_rounding(comparison: Comparison, rounded: set[str]) -> Comparison:
    real = tuple(each for each in comparison.differing if not _is_rounding(each, rounded))
    return replace(comparison, differing=real, same=comparison.same + len(comparison.differing) - len(real))


def _is_rounding(difference: Difference, rounded: set[str]) -> bool:
    computed = any(f".{difference.key}".endswith(f".{key}") for key in rounded)
    if not computed or difference.a != difference.b or difference.relative is None:
        return False
    return difference.relative <= ROUNDING * torch.finfo(getattr(torch, difference.a.partition(" ")[0])).eps


def _rest(checkpoint: Checkpoint, plans: Sequence[StatePlan], other: Checkpoint) -> list[str]:
    """The names of what else should be in the file and is not, or is other."""
    checkpoint.whole(plans)
    expected, found = dict(checkpoint.described().rest), dict(other.described().rest)
    names = [name for name in expected | found if expected.get(name) != UNREAD]
    return [name for name in names if expected.get(name) != found.get(name)]
