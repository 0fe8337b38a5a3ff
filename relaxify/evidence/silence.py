"""Where a model falls silent: the last values that respond to its inputs, if its output does not."""

from __future__ import annotations

import torch
from torch import fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.transformations import TOLERANCE
from relaxify.verdicts.draws import is_orthogonal


def is_sound_until_silent(evidence: Evidence) -> bool:
    """Whether all values transform up to where nothing responds to the inputs any more.

    A constant output is no fault of theirs; but behind one may be hidden what does not transform.
    """
    return evidence.diverged is None and all(_transforms(evidence, node) for node in last_that_respond(evidence))


def _transforms(evidence: Evidence, node: fx.Node) -> bool:
    """By the fits; or by its length, where copies of one vector are too few different ones for a fit."""
    found = evidence.of(node)
    if found.kind != "undecided" or not is_orthogonal(evidence.group.of_features):
        return found.is_sound
    pairs = [(float(base.norm()), float(run.norm())) for base, runs in evidence.values(node) for run in runs]
    return all(abs(after - before) <= TOLERANCE * before for before, after in pairs)


def last_that_respond(evidence: Evidence) -> list[fx.Node]:
    """The values that vary with the inputs, and of which nothing is made that does."""
    varying = {node for node in evidence.nodes if evidence.is_seen(node) and _varies(evidence, node)}
    # in reverse, whether a value varies or leads to one that does, through what is not seen (integers, tuples)
    leads: dict[fx.Node, bool] = {}
    for node in reversed(evidence.nodes):
        leads[node] = node in varying or (not evidence.is_seen(node) and any(leads.get(user, False) for user in node.users))
    return [node for node in evidence.nodes if node in varying and not any(leads.get(user, False) for user in node.users)]


def _varies(evidence: Evidence, node: fx.Node) -> bool:
    (first, runs), *others = evidence.values(node)
    values = [*runs, *(value for base, moved in others for value in (base, *moved))]
    return any(value.shape != first.shape or not torch.equal(value, first) for value in values)
