"""From a plain model's state dicts to the relaxed model's: terms' keys are added, as relaxing the plain model makes them.

What they are depends on the weights where the layer is an ordinary convolution, so that the weights are loaded into the
relaxed model, and its terms are read off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from relaxify.checkpoint.loading import LONGEST_REASON, load_fitting
from relaxify.checkpoint.plan import Options, StateConversion, StatePlan, TermConversion
from relaxify.checkpoint.prefixes import Names
from relaxify.checkpoint.state import StateDict, StoredTerm, in_memory
from relaxify.checkpoint.terms import find_terms, is_term_key
from relaxify.record import CheckpointError


def relaxing_plans(states: Iterable[StateDict], model: nn.Module, options: Options) -> tuple[StatePlan, ...]:
    """The plans of all state dicts that load into the relaxed model, which has the weights of the last then.

    CheckpointError if the model has no terms, a state dict has some, or none fits.
    """
    plans, reason = [], "it holds no state dict"
    fresh = {key: value.detach().cpu().clone() for key, value in model.state_dict().items() if is_term_key(key)}
    if not fresh:
        raise CheckpointError(f"{type(model).__name__} has no terms; give a model that relaxify has relaxed.")
    for state in states:
        if find_terms(state):
            raise CheckpointError(f"{state.name or 'the state dict'} has terms already; give a plain model's checkpoint.")
        prefix, failed = load_fitting(model, state)
        if prefix is None:
            reason = failed
        else:
            plans.append(_plan(state, model, fresh, prefix, options))
    if not plans:
        raise CheckpointError(
            f"nothing in it loads into the relaxed {type(model).__name__} ({reason[:LONGEST_REASON]}); give a checkpoint "
            f"of the plain model that was relaxed."
        )
    return tuple(plans)


def _plan(state: StateDict, model: nn.Module, fresh: Mapping[str, Tensor], prefix: str, options: Options) -> StatePlan:
    if options.strip_prefix and not prefix:
        raise CheckpointError("none of its keys begins with a wrapper's prefix; leave that option out.")
    names, ahead = (Names(prefix), "") if options.strip_prefix else (Names(), prefix)
    found = {key: value.detach() for key, value in model.state_dict().items()}
    terms = find_terms(in_memory(found))
    own = {key: term for term in terms for key in term.own_keys()}
    # loading a plain model's weights makes a term's 0, but for what is an ordinary kernel's rest
    made = {key: found[key].cpu().clone() if own[key].record.symmetriser else fresh[key] for key in found if key in own}
    added = {f"{ahead}{key}": value for key, value in made.items()}
    kept = tuple(key for key in state.shapes if names.of(key) is not None)
    before = state.size(kept)
    report = StateConversion(
        where=state.where,
        terms=tuple(TermConversion(term.path, term.theta(), abs(term.theta()) * term.norm()) for term in terms),
        kept=kept,
        removed=(),
        added=tuple(added),
        parameters_before=before,
        parameters_after=before + _entries(terms, found),
    )
    left_out = tuple(key for key in state.shapes if names.of(key) is None)
    order = {f"{ahead}{key}": place for place, key in enumerate(found)}
    return StatePlan(state, (), {}, report, names, left_out, added, order)


def _entries(terms: Iterable[StoredTerm], found: Mapping[str, Tensor]) -> int:
    """How many entries the terms' weights have, shared ones once."""
    weights = {found[key].data_ptr(): found[key] for term in terms for key in term.weight_keys}
    return sum(weight.numel() for weight in weights.values())
