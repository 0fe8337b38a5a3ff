"""FullSize: what a model that is known to be broken does on full-size group elements, whole numbers and booleans included.

Small elements do not show what depends on the sign of a coordinate, or on which is the largest. Here a value is held to ways
of moving that need no fit; and to its length, which an orthogonal representation keeps, on whatever axes it acts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from relaxify.evidence.evidence import Evidence, common
from relaxify.evidence.transformations import TOLERANCE
from relaxify.graph.recording import Recording
from relaxify.verdicts.candidates import Way, has_lost_a_sign, ways
from relaxify.verdicts.draws import Draw, is_orthogonal

# entries along an axis that are looked at before all are
_FEW = 4


@dataclass(frozen=True, eq=False)
class FullSize:
    """Runs on x and on g x for the `elements` g; the `tolerance` of what they are held to is relative to a value's size."""

    evidence: Evidence
    elements: Sequence[Draw]
    base: Recording
    moved: Sequence[Recording]
    tolerance: float = TOLERANCE

    @functools.cached_property
    def _named(self) -> dict[fx.Node, bool | None]:
        """What is known of each value that was asked for, which one search does again and again."""
        return {}

    @functools.cached_property
    def _index(self) -> dict[fx.Node, int]:
        return {node: i for i, node in enumerate(self.evidence.nodes)}

    @property
    def parting(self) -> fx.Node | None:
        """The node at which a run on some g x first took another course than that on x, if one did."""
        shared = min(common(self.base.nodes, run.nodes, shapes=False) for run in (self.evidence.recording, *self.moved))
        return self.evidence.nodes[shared] if shared < len(self.evidence.nodes) else None

    def values(self, node: fx.Node) -> tuple[Tensor, Sequence[Tensor]] | None:
        """A value on x and on each g x; None where a run took another course, or the value has pixels that move."""
        index = self._index[node]
        runs = [run.nodes[index] if index < len(run.nodes) else None for run in (self.base, *self.moved)]
        is_other = any(run is None or run.target != node.target or run.meta.get("value") is None for run in runs)
        has_pixels = self.evidence.pixel_maps is not None and self.evidence.of(node).pixels is not None
        if is_other or has_pixels:
            return None
        base, *moved = [value.double() for run in runs if run is not None and (value := run.meta.get("value")) is not None]
        return (base, moved) if [value.shape for value in moved] == [base.shape] * len(self.moved) else None

    def moves_in_a_known_way(self, node: fx.Node) -> bool | None:
        """Whether a value is carried to that on g x as an invariant is, vectors, pairs or positions; None if not seen."""
        if node not in self._named:
            self._named[node] = self._moves_in_a_known_way(node)
        return self._named[node]

    def _moves_in_a_known_way(self, node: fx.Node) -> bool | None:
        found, group = self.values(node), self.evidence.group
        if found is None:
            return None
        base, moved = found
        granted = self._granted(base)

        def carries(way: Way) -> bool:
            # a part that is too far off rules out the whole
            return all(
                _distance(way, g, part(base), part(run)) <= granted
                for part in (functools.partial(_part, way), _whole)
                for g, run in zip(self.elements, moved, strict=True)
            )

        return any(carries(way) for way in ways(group, base) if not has_lost_a_sign(group, way))

    def changes_length(self, node: fx.Node) -> bool:
        """Whether no orthogonal representation can carry a value; of groups with others nothing is known so."""
        found = self.values(node)
        if found is None or not is_orthogonal(self.evidence.group.of_features):
            return False
        base, moved = found
        return any(abs(float(run.norm() - base.norm())) > self._granted(base) for run in moved)

    def _granted(self, base: Tensor) -> float:
        """Relative to a value's size; what is zero but for rounding has none."""
        return max(self.tolerance * float(base.norm()), self.evidence.tiny * math.sqrt(base.numel()))

    def is_beyond_fits(self, node: fx.Node) -> bool:
        """Whether a value that fits do not tell of can only be told by its name: lengths say nothing."""
        return self.evidence.of(node).kind == "undecided" and not is_orthogonal(self.evidence.group.of_features)


def _part(way: Way, value: Tensor) -> Tensor:
    """A few entries along each axis on which the way does not act."""
    if way.place is not None:
        return value
    acting = {axis % value.ndim for axis in way.axes}
    return value[tuple(slice(None) if axis in acting else slice(_FEW) for axis in range(value.ndim))]


def _whole(value: Tensor) -> Tensor:
    return value


def _distance(way: Way, g: Draw, base: Tensor, run: Tensor) -> float:
    try:
        return float((run - way(g, base)).norm())
    except (ValueError, RuntimeError, IndexError):
        return math.inf
