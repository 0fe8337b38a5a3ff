"""Refold: move what a term has learned that is equivariant into its layer, during training, the function unchanged.

f(x) = f_e(x) + theta W x, so with H the part of W that the layer's own weights can express, W_e += theta H and W -= H.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from relaxify.interrupts import completed
from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.projecting import NewValues, updated
from relaxify.relaxation.terms.term import Term, owned_terms

_log = logging.getLogger("relaxify")


def refold(model: nn.Module) -> None:
    """W_e += theta P_H W, W -= P_H W in every layer that can express it, in place: the same function, to rounding.

    What is left in W is what the layer cannot express, so the penalty no longer holds down what the layer may keep.
    Gradients depend on W_e + theta W alone, so an optimizer's moments stay as right as they were, and need no change; only
    weight decay sees the new values. Costs a `fold` of every layer, on the CPU in float64: not for every step.

    Terms of low rank, whose W cannot give up a part, and layers that do not fold (`summary(model)` says why) are left as
    they are. RuntimeError if the model is not relaxed; ValueError if it is sharded, or if W has NaN. Whatever is raised, all
    of this is done or nothing.

        if step % 50 == 0:
            refold(model)
    """
    terms = dict(owned_terms(model))
    if not terms:
        raise RuntimeError("the model has no relaxation terms to refold; call relaxify(model, group) first.")
    if sharded_modules(model):
        raise ValueError("refold(model): the model is sharded, and no process has a layer whole; leave refold_every out.")
    values = refolded(model)
    completed(lambda: write(values))


def refolded(model: nn.Module) -> NewValues:
    """What `refold` writes, and where; nothing of a model whose terms cannot be refolded."""
    values: NewValues = []
    for owner, term in owned_terms(model):
        if (reason := _why_not(term)) is not None:
            _log.info("%s is not refolded: %s", term.path, reason)
        elif bool(term.theta):
            values += _refolded(model.get_submodule(owner), term)
    return values


@torch.no_grad()
def write(values: NewValues) -> None:
    """Set parameters to their new values; again with the same result."""
    for parameter, value in values:
        parameter.copy_(value)


def _why_not(term: Term) -> str | None:
    return "its W is of low rank" if term.config.rank is not None else term.why_not_foldable()


@torch.no_grad()
def _refolded(layer: nn.Module, term: Term) -> NewValues:
    part = term.foldable_weight()
    values = [(term.weight, term.weight.double() - part.to(term.weight.device))]
    if part.isfinite().all():
        values += updated(layer, term.updates())
    if not all(value.isfinite().all() for _, value in values):
        raise ValueError(f"the relaxation of {term.path!r} has NaN or infinite values; restore an earlier checkpoint.")
    return values
