"""A plan under a product of groups, from the plans under its factors: which factors each term may break, and on which axes.

An operation that is known by its values is relaxed under all factors that act on them, on the axes of all together: P_H
projects onto what commutes with each. What an adapter claims is relaxed under the factor that its type knows; a term acts on
each row alike, so that other factors that move whole rows are kept.
"""

from __future__ import annotations

import functools
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
_IN_ANY_CASE = _WORST_FIRST[:4]
"""Under one factor, whatever is said under others."""


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

    @functools.cached_property
    def evidence(self) -> ProductEvidence:
        """How each value transforms under all factors."""
        return ProductEvidence(self.group, [each.analysis.evidence for each in self.factors])

    @functools.cached_property
    def analysis(self) -> Analysis:
        """What is known of the model under all factors."""
        broken = next((each.analysis.broken for each in self.factors if each.analysis.broken), None)
        return replace(self.factors[0].analysis, evidence=self.evidence, broken=broken)

    def decided(self) -> Iterator[Site | Rejected]:
        """What is said of each operation under all factors."""
        yield from map(self._decided, dict.fromkeys(path for each in self.factors for path in each.decided))

    def _decided(self, path: str) -> Site | Rejected:
        worst = _worst([found for each in self.factors if (found := each.rejected(path)) is not None])
        sites = {number: site for number, each in enumerate(self.factors) if (site := each.site(path)) is not None}
        if worst is not None and (not sites or worst.kind in _IN_ANY_CASE):
            return worst
        first, *others = sites
        if all(path in each.analysis.calls for each in self.factors):
            return self._by_values(path, worst, sites[first])
        if others:
            return _rejected(sites[first], "its type is known under several factors")
        return self._by_type(sites[first], first)

    def _by_values(self, path: str, worst: Rejected | None, like: Site) -> Site | Rejected:
        calls = self.analysis.calls[path]
        found = judge_calls(self.model, self.evidence, path, calls)
        if isinstance(found, Site):
            if (reason := like.map.unfoldable) is not None:
                found = replace(found, map=replace(found.map, paths=(), derived=(), unfoldable=reason))
            acting, error = self._acting(calls[0].contraction.data), max(like.proof or 0.0, found.error())
            return replace(found, acting=tuple(acting), proof=error)
        if worst is None and self.evidence.of(calls[0].contraction.data).beyond:
            reason = f"{self.group.name} acts on more than {LARGEST_JOINT} components of what it reads at once"
            return _rejected(like, f"{reason}; relax it under one of the factors")
        return worst or found

    def _by_type(self, site: Site, number: int) -> Site | Rejected:
        sides = (rep.of_factor(self.group, number) for rep in (site.map.rep_in, site.map.rep_out))
        others = [each for each in self.factors if each is not self.factors[number]]
        for each in others:
            if reason := _moves_features(each.analysis.evidence, site):
                return _rejected(site, _under(each.group, reason))
        rep_in, rep_out = sides
        data, _ = promised(self.evidence.recording, site)[0]
        acting = tuple(self._acting(_node(data)))
        over = replace(site.map, rep_in=rep_in, rep_out=rep_out)
        return replace(site, map=over, acting=acting, kept=tuple(each.group.name for each in others))

    def _acting(self, node: fx.Node | None) -> Iterator[tuple[str, tuple[int, ...]]]:
        """On which axes of a value each factor acts."""
        nodes = None if node is None else self.evidence.under_each(node)
        for each, own in zip(self.evidence.factors, nodes or (), strict=False):
            yield each.group.name, each.of(own).axes


def _worst(rejected: Sequence[Rejected]) -> Rejected | None:
    """What speaks most against an operation, under all factors that say so."""
    kind = min((found.kind for found in rejected), key=_WORST_FIRST.index, default=None)
    alike = [found for found in rejected if found.kind is kind]
    return replace(alike[0], why="; ".join(dict.fromkeys(found.why for found in alike))) if alike else None


def _under(group: Group, why: str) -> str:
    return f"under {group.name} {why}" if why and group.name not in why else why


def _rejected(site: Site, reason: str) -> Rejected:
    return Rejected(site.path, site.map.op, reason, location=site.location)


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
