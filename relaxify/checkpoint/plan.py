"""What is to become of one state dict: the keys it keeps, what is folded into them, and the report of it as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from relaxify.checkpoint.prefixes import Names, changes_none, without_wrappers
from relaxify.checkpoint.state import StateDict, StoredTerm
from relaxify.checkpoint.terms import find_terms, fold_targets, symmetrised_targets
from relaxify.record import CheckpointError

Mode = Literal["drop", "fold"]
T = TypeVar("T")


class ThetaError(CheckpointError):
    """A term is switched on further than `max_theta` allows."""


@dataclass(frozen=True)
class TermConversion:
    """What became of the term at a site: `norm` is |theta W|, `folded` the share of |theta W|^2 its layer took over.

    `unfoldable` says why a term was dropped though fold was asked for; `symmetrised` whether its layer is an ordinary
    convolution, of whose kernel only the symmetric part was kept.
    """

    path: str
    theta: float
    norm: float
    folded: float | None = None
    unfoldable: str | None = None
    symmetrised: bool = False

    @property
    def note(self) -> str | None:
        """What there is to say besides the numbers."""
        if self.unfoldable is not None:
            return f"dropped: {self.unfoldable}"
        return "dropped, and its kernel symmetrised" if self.symmetrised else None


@dataclass(frozen=True)
class StateConversion:
    """What became of one state dict: `where` are the keys that lead to it in the checkpoint, () if it is all of it.

    `kept` and `removed` are keys of the source, `added` the terms' in the target where there were none.
    The parameter counts are the entries of its tensors without theta and records. They include buffers, which a
    checkpoint does not tell from parameters.
    """

    where: tuple[Any, ...]
    terms: tuple[TermConversion, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    added: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(map(str, self.where))


@dataclass(frozen=True)
class Conversion:
    """What `convert` or `relax` did. `left_out` names what else the target lacks, such as optimizer states."""

    source: Path
    target: Path
    mode: Mode | Literal["relax"]
    states: tuple[StateConversion, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the caller of `convert` asked for. CheckpointError if it makes no sense.

    `prefix`: what is before the model's keys, which lose it; keys without it are left out. `key`: where in the file the
    state dict is that is wanted alone.
    """

    mode: Mode = "drop"
    max_theta: float | None = None
    strip_prefix: bool = False
    prefix: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if self.mode not in ("drop", "fold"):
            raise CheckpointError(f"unknown mode {self.mode!r}; pass 'drop' or 'fold'.")
        if self.max_theta is not None and not self.max_theta >= 0:
            raise CheckpointError(f"max_theta is {self.max_theta}, but it bounds |theta|; pass 0 or more.")
        if self.strip_prefix and self.prefix:
            raise CheckpointError(
                f"the prefix {self.prefix!r} is given, so no wrapper's is looked for; leave one of the two out."
            )


@dataclass(frozen=True)
class StatePlan:
    """What is to become of one state dict: `targets` are the base keys that something is folded into.

    `names` are the new names of keys that stay; `left_out` the keys that have none, and belong to no term. `added` are
    entries that the source has not, `order` the places of the new names.
    """

    state: StateDict
    terms: tuple[StoredTerm, ...]
    targets: dict[str, tuple[StoredTerm, str]]
    report: StateConversion
    names: Names = field(default_factory=Names)
    left_out: tuple[str, ...] = ()
    added: Mapping[str, Tensor] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)

    def load(self, key: str) -> Tensor:
        """The tensor to write for a key that stays."""
        if key in self.targets:
            term, parameter = self.targets[key]
            return term.fold_into(key, parameter)
        return self.state.load(key)

    def renamed(self) -> dict[str, str]:
        """The new key of every key that stays, in order."""
        return {key: new for key in self.report.kept if (new := self.names.of(key)) is not None}

    def with_added(self, kept: Mapping[Any, T], make: Callable[[str, Tensor], T]) -> dict[Any, T]:
        """What stays, by its new name, and what is made of what is added, in order."""
        entries = {**kept, **{key: make(key, value) for key, value in self.added.items()}}
        last = len(self.order)
        return dict(sorted(entries.items(), key=lambda item: self.order.get(item[0], last))) if self.order else entries


def plan_states(states: Iterable[StateDict], options: Options) -> tuple[StatePlan, ...]:
    """The plans of all state dicts. CheckpointError if none has a term, ThetaError if a theta is above the bound."""
    found = [(state, terms) for state in states if (terms := find_terms(state))]
    if not found:
        raise CheckpointError("it holds no relaxify records, so there is nothing to convert (is it already clean?).")
    _check_theta([term for _, terms in found for term in terms], options)
    plans = tuple(_plan(state, terms, options) for state, terms in found)
    _check_prefix(plans, options)
    return plans


def _check_prefix(plans: Sequence[StatePlan], options: Options) -> None:
    """An option that changes nothing was meant otherwise."""
    kept = [key for plan in plans for key in plan.report.kept]
    if not (options.prefix or options.strip_prefix) or (
        kept and not all(changes_none(plan.names, plan.report.kept) for plan in plans)
    ):
        return
    keys = [key for plan in plans for key in plan.state.shapes]
    wanted = repr(options.prefix) if options.prefix else "a wrapper's prefix"
    raise CheckpointError(
        f"none of its keys begins with {wanted} (the first is {keys[0]!r}); give the prefix that they have, or none."
    )


def _check_theta(terms: list[StoredTerm], options: Options) -> None:
    if options.max_theta is None:
        return
    # NaN is above every bound
    above = [term for term in terms if not abs(term.theta()) <= options.max_theta]
    if above:
        raise ThetaError(
            f"{above[0].path} has theta {above[0].theta():g}, and {len(above)} of {len(terms)} terms are above the "
            f"allowed {options.max_theta:g}; train until the controller has brought theta down, or allow more."
        )


def _plan(state: StateDict, terms: tuple[StoredTerm, ...], options: Options) -> StatePlan:
    removed = {key for term in terms for key in term.own_keys()}
    own = [key for key in state.shapes if key not in removed]
    names = Names(_ended(options.prefix))
    if options.strip_prefix:
        names = without_wrappers(own, {term.base_prefix: (term.record.path, *term.record.aliases) for term in terms})
    left_out = [key for key in own if names.of(key) is None]
    kept = tuple(key for key in own if names.of(key) is not None)
    if twice := [new for new, count in Counter(map(names.of, kept)).items() if count > 1]:
        raise CheckpointError(f"two of its keys would be {twice[0]!r} without their prefixes; convert it with them.")
    report = StateConversion(
        where=state.where,
        terms=tuple(_convert_term(term, options.mode) for term in terms),
        kept=kept,
        removed=tuple(key for key in state.shapes if key in removed),
        parameters_before=state.size([*kept, *(key for term in terms for key in term.weight_keys)]),
        parameters_after=state.size(kept),
    )
    targets = symmetrised_targets(terms) | (fold_targets(terms) if options.mode == "fold" else {})
    return StatePlan(state, terms, targets, report, names, tuple(left_out))


def _ended(prefix: str) -> str:
    return f"{prefix.removesuffix('.')}." if prefix else ""


def _convert_term(term: StoredTerm, mode: Mode) -> TermConversion:
    theta = term.theta()
    norm = abs(theta) * term.norm()
    if mode == "drop":
        return TermConversion(term.path, theta, norm, symmetrised=bool(term.record.symmetriser))
    if not term.record.is_foldable:
        unfoldable = term.record.unfoldable or "its layer's parameters express none of it"
        return TermConversion(term.path, theta, norm, unfoldable=unfoldable)
    return TermConversion(term.path, theta, norm, folded=term.folded_share())
