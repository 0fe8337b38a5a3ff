"""Whether a value moves in a way that needs no fit, or in none at all: what runs tell even of few samples.

An orthogonal representation, on whatever axes, keeps the length of a whole value; what changes it carries none.
"""

from __future__ import annotations

from torch import Tensor, fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.fitting import TOLERANCE, close, elements
from relaxify.verdicts.candidates import Way, ways
from relaxify.verdicts.draws import Draw, is_orthogonal


def moves_in_a_known_way(evidence: Evidence, node: fx.Node) -> bool:
    """Whether a value is carried to that on g x as an invariant is, vectors, pairs of them, or positions."""
    if not evidence.is_seen(node):
        return False
    pairs = evidence.pairs(node)
    drawn = [Draw(evidence.group, (g,)) for g in elements(evidence.group)]

    def carries(way: Way) -> bool:
        return all(_carries(way, g, base, run) for base, runs in pairs for g, run in zip(drawn, runs, strict=True))

    return any(map(carries, ways(evidence.group, pairs[0][0])))


def changes_length(evidence: Evidence, node: fx.Node) -> bool:
    """Whether no orthogonal representation can carry a value; of other groups nothing is known so."""
    if not evidence.is_seen(node):
        return False
    return not is_orthogonal(evidence.group) or any(
        abs(float(run.norm() - base.norm())) > TOLERANCE * float(base.norm())
        for base, runs in evidence.values(node)
        for run in runs
    )


def _carries(way: Way, g: Draw, base: Tensor, run: Tensor) -> bool:
    try:
        return close(run, way(g, base))
    except (ValueError, RuntimeError, IndexError):
        return False
