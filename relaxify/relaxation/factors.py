"""A plan under a product of groups, from the plans under its factors: which factors each term may break, and on which axes.

An operation that is known by its values is relaxed under all factors that act on them, on the axes of all together: P_H
projects onto what commutes with each. What an adapter claims is relaxed under the factor that its type knows; a term acts on
each row alike, so that other factors that move whole rows are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from relaxify.evidence.analysis import Analysis, promised
from relaxify.evidence.evidence import Evidence
from relaxify.evidence.judging import judge_calls
from relaxify.evidence.products import LARGEST_JOINT, ProductEvidence
from relaxify.graph.inputs import leaves_of
from relaxify.groups import Group
from relaxify.sites import Features, Rejected, RejectionKind, Site

_WORST_FIRST = (
    RejectionKind.unsound,
    RejectionKind.spoilt,
    RejectionKind.excluded,
    RejectionKind.not_included,
    RejectionKind.undecided,
    RejectionKind.unrecognised,
    RejectionKind.unjudged,
    RejectionKind.harmless,
    RejectionKind.unsupported,
    RejectionKind.trivial,
)


@dataclass(frozen=True)
class UnderFactor:
    """What is planned under one factor, by the paths of the operations, and the runs that it rests on."""

    group: Group
    decided: Mapping[str, Sequence[Site | Rejected]]
    analysis: Analysis

    @classmethod
    def of(cls, group: Group, entries: Iterable[Site | Rejected], analysis: Analysis) -> UnderFactor:
        """From all entries of a plan."""
        decided: dict[str, list[Site | Rejected]] = {}
        for entry in entries:
            decided.setdefault(entry.path, []).append(entry)
        return cls(group, decided, analysis)

    def site(self, path: str) -> Site | None:
        return next((entry for entry in self.decided.get(path, ()) if isinstance(entry, Site)), None)

    def rejected(self, path: str) -> Rejected | None:
        """With its group's name, if there is one."""
        found = next((entry for entry in self.decided.get(path, ()) if isinstance(entry, Rejected)), None)
        return found and replace(found, why=_under(self.group, found.why))


@dataclass(frozen=True)
class Product:
    """A model under a product of groups and under each factor."""

    model: nn.Module
    group: Group
    factors: Sequence[UnderFactor]

    @property
    def analysis(self) -> Analysis:
        """What is known of each value under all factors."""
        first = self.factors[0].analysis
        evidence = ProductEvidence(self.group, [each.analysis.evidence for each in self.factors])
        broken = next((each.analysis.broken for each in self.factors if each.analysis.broken), None)
        return replace(first, evidence=evidence, broken=broken)

    def decided(self) -> Iterator[Site | Rejected]:
        """What is said of each operation under all factors."""
        analysis = self.analysis
        for path in dict.fromkeys(path for each in self.factors for path in each.decided):
            yield self._decided(path, analysis)

    def _decided(self, path: str, analysis: Analysis) -> Site | Rejected:
        rejected = [found for each in self.factors if (found := each.rejected(path)) is not None]
        worst = min(rejected, key=lambda found: _WORST_FIRST.index(found.kind), default=None)
        sites = {number: site for number, each in enumerate(self.factors) if (site := each.site(path)) is not None}
        if worst is not None and (not sites or _WORST_FIRST.index(worst.kind) < _WORST_FIRST.index(RejectionKind.undecided)):
            return worst
        if all(path in each.analysis.calls for each in self.factors):
            assert isinstance(analysis.evidence, ProductEvidence)
            return self._by_values(path, analysis, analysis.evidence, worst, next(iter(sites.values())))
        if len(sites) > 1:
            return _unsupported(sites, "its type is known under several factors")
        ((number, site),) = sites.items()
        return self._by_type(site, number)

    def _by_values(
        self, path: str, analysis: Analysis, evidence: ProductEvidence, worst: Rejected | None, like: Site
    ) -> Site | Rejected:
        data = analysis.calls[path][0].contraction.data
        found = judge_calls(self.model, evidence, path, analysis.calls[path])
        if isinstance(found, Site):
            return replace(found, acting=tuple(_acting(evidence, data)), proof=like.proof)
        if worst is None and evidence.of(data).beyond:
            reason = f"{self.group.name} acts on more than {LARGEST_JOINT} components of what it reads at once"
            return replace(found, why=f"{reason}; relax it under one of the factors", kind=RejectionKind.unsupported)
        return worst or found

    def _by_type(self, site: Site, number: int) -> Site | Rejected:
        map_ = site.map
        over = replace(
            map_, rep_in=map_.rep_in.of_factor(self.group, number), rep_out=map_.rep_out.of_factor(self.group, number)
        )
        others = [each for other, each in enumerate(self.factors) if other != number]
        for each in others:
            if reason := _moves_features(each.analysis.evidence, site):
                return Rejected(site.path, map_.op, f"under {each.group.name} {reason}", location=site.location)
        return replace(site, map=over, kept=tuple(each.group.name for each in others))


def _under(group: Group, why: str) -> str:
    return f"under {group.name} {why}" if why and group.name not in why else why


def _unsupported(sites: Mapping[int, Site], reason: str) -> Rejected:
    site = next(iter(sites.values()))
    return Rejected(site.path, site.map.op, reason, location=site.location)


def _acting(evidence: ProductEvidence, node: fx.Node) -> Iterator[tuple[str, tuple[int, ...]]]:
    """On which axes of a value each factor acts."""
    for each, own in zip(evidence.factors, evidence.under_each(node) or (), strict=False):
        yield each.group.name, each.of(own).axes


def _moves_features(evidence: Evidence, site: Site) -> str | None:
    """Why a term at this site may not commute with a group of which its type knows nothing; None if it does.

    It does where the group moves whole rows, and those of the output as those of the input.
    """
    if site.map.intercepts:
        return "a function in somebody's forward is not followed"
    pairs = [(_node(data), _node(result)) for data, result in promised(evidence.recording, site)]
    if not pairs:
        return "it was not seen to run"
    for data, result in pairs:
        if data is None or result is None or not (evidence.is_seen(data) and evidence.is_seen(result)):
            return "what it reads and makes was not seen in all runs"
        before, after = evidence.of(data), evidence.of(result)
        if not (before.is_sound and after.is_sound):
            return "what it reads or makes does not transform in a way that can be told"
        rows_in = _rows(site, site.map.features_in, data, before.axes)
        rows_out = _rows(site, site.map.features_out, result, after.axes)
        if rows_in is None or rows_out is None:
            return "the very features move that it mixes"
        if "zero" not in (before.kind, after.kind) and (rows_in != rows_out or not _same(before.actions, after.actions)):
            return "the rows that it reads and makes move in different ways"
    return None


def _node(value: object) -> fx.Node | None:
    """The one tensor of an argument or a result, in what a library wraps it in."""
    nodes = [leaf for leaf in leaves_of(value) if isinstance(leaf, fx.Node)]
    return nodes[0] if len(nodes) == 1 else None


def _rows(site: Site, features: Features, node: fx.Node, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which of the axes of rows a group acts on; None if it acts on features too, or on the pixels of a convolution."""
    ndim = node.meta["value"].ndim
    own = range(1, ndim) if site.map.convolution is not None else features.positions(ndim)
    rows = [axis for axis in range(ndim) if axis not in own]
    acted = [axis % ndim for axis in axes]
    return tuple(rows.index(axis) for axis in acted) if set(acted) <= set(rows) else None


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.allclose(a, b, atol=1e-6))
