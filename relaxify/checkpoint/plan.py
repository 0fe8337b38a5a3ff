"""What is to become of one state dict: the keys it keeps, what is folded into them, and the report of it as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from relaxify.checkpoint.state import StateDict, StoredTerm
from relaxify.checkpoint.terms import find_terms, fold_targets, symmetrised_targets
from relaxify.record import CheckpointError

Mode = Literal["drop", "fold"]

# what DataParallel and DDP, torch.compile, Opacus and Lightning modules put before every key
WRAPPERS = ("module.", "_orig_mod.", "_module.", "model.")


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

    The parameter counts are the entries of its tensors without theta and records. They include buffers, which a
    checkpoint does not tell from parameters.
    """

    where: tuple[Any, ...]
    terms: tuple[TermConversion, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    parameters_before: int
    parameters_after: int

    @property
    def name(self) -> str:
        return ".".join(map(str, self.where))


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. `left_out` names what else the target lacks, such as optimizer states."""

    source: Path
    target: Path
    mode: Mode
    states: tuple[StateConversion, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the caller of `convert` asked for. CheckpointError if it makes no sense."""

    mode: Mode = "drop"
    max_theta: float | None = None
    strip_prefix: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("drop", "fold"):
            raise CheckpointError(f"unknown mode {self.mode!r}; pass 'drop' or 'fold'.")
        if self.max_theta is not None and not self.max_theta >= 0:
            raise CheckpointError(f"max_theta is {self.max_theta}, but it bounds |theta|; pass 0 or more.")


@dataclass(frozen=True)
class StatePlan:
    """What is to become of one state dict: `targets` are the base keys that something is folded into.

    `prefix` is what every key that stays loses.
    """

    state: StateDict
    terms: tuple[StoredTerm, ...]
    targets: dict[str, tuple[StoredTerm, str]]
    prefix: str
    report: StateConversion

    def load(self, key: str) -> Tensor:
        """The tensor to write for a key that stays."""
        if key in self.targets:
            term, parameter = self.targets[key]
            return term.fold_into(key, parameter)
        return self.state.load(key)

    def renamed(self) -> dict[str, str]:
        """The new key of every key that stays, in order."""
        return {key: key.removeprefix(self.prefix) for key in self.report.kept}


def plan_states(states: Iterable[StateDict], options: Options) -> tuple[StatePlan, ...]:
    """The plans of all state dicts. CheckpointError if none has a term, ThetaError if a theta is above the bound."""
    found = [(state, terms) for state in states if (terms := find_terms(state))]
    if not found:
        raise CheckpointError("it holds no relaxify records, so there is nothing to convert (is it already clean?).")
    _check_theta([term for _, terms in found for term in terms], options)
    return tuple(_plan(state, terms, options) for state, terms in found)


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
    kept = tuple(key for key in state.shapes if key not in removed)
    report = StateConversion(
        where=state.where,
        terms=tuple(_convert_term(term, options.mode) for term in terms),
        kept=kept,
        removed=tuple(key for key in state.shapes if key in removed),
        parameters_before=state.size([*kept, *(key for term in terms for key in term.weight_keys)]),
        parameters_after=state.size(kept),
    )
    targets = symmetrised_targets(terms) | (fold_targets(terms) if options.mode == "fold" else {})
    return StatePlan(state, terms, targets, wrapper_prefix(kept) if options.strip_prefix else "", report)


def _convert_term(term: StoredTerm, mode: Mode) -> TermConversion:
    theta = term.theta()
    norm = abs(theta) * term.norm()
    if mode == "drop":
        return TermConversion(term.path, theta, norm, symmetrised=bool(term.record.symmetriser))
    if not term.record.is_foldable:
        unfoldable = term.record.unfoldable or "its layer's parameters express none of it"
        return TermConversion(term.path, theta, norm, unfoldable=unfoldable)
    return TermConversion(term.path, theta, norm, folded=term.folded_share())


def wrapper_prefix(keys: Iterable[str]) -> str:
    """The wrappers' prefixes that all keys have in common.

    >>> wrapper_prefix(["module._orig_mod.lin.weight", "module._orig_mod.lin.bias"])
    'module._orig_mod.'
    """
    keys, prefix = list(keys), ""
    while step := next((w for w in WRAPPERS if keys and all(key.startswith(prefix + w) for key in keys)), ""):
        prefix += step
    return prefix
