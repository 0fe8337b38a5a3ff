"""Plan: what `relaxify` would do to a model, as data, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relaxify.figures import parameters_of
from relaxify.groups import Group
from relaxify.relaxation.config import RelaxConfig
from relaxify.rendered import Rendered, about_inputs
from relaxify.sites import Rejected, Site
from relaxify.verdicts.verdict import Verdict, name_of

if TYPE_CHECKING:
    from relaxify.figures import Figure

FORMAT = "relaxify-plan/1"

UNCHECKED = "whole model not checked, only layers one by one; pass example_inputs=(...)"


@dataclass(frozen=True, repr=False)
class Plan(Rendered):
    """What `relaxify` would do: the sites it would relax with their configs, and every rejected candidate's reason.

    `looked_at` counts the model's modules by type. `diverged` is the statement (file:line) from which on runs on transformed
    example inputs took another course, if any did; `verdict` what these say of the model as a whole, None without any.
    `moved` says in words how the group moves inputs; those that it does not name stay.
    """

    page = "plan"

    group: Group
    sites: tuple[Site, ...]
    rejected: tuple[Rejected, ...]
    configs: Mapping[str, RelaxConfig]
    looked_at: Mapping[str, int]
    diverged: str | None = None
    verdict: Verdict | None = None
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def unsound(self) -> tuple[Rejected, ...]:
        """Candidates that should be equivariant and are not."""
        return tuple(rejected for rejected in self.rejected if rejected.unsound)

    def to_dict(self) -> dict[str, Any]:
        """Every site and every candidate that is none, as plain data."""
        return {
            "format": FORMAT,
            "group": self.group.name,
            "sites": [_site(site) for site in self.sites],
            "rejected": [{**dataclasses.asdict(each), "reason": each.reason} for each in self.rejected],
            "looked_at": dict(self.looked_at),
            "diverged": self.diverged,
            "moved": dict(self.moved),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
        }

    def about(self) -> dict[str, str]:
        """How the group moves the example inputs, and in what precision they were."""
        precision = {} if self.verdict is None else {"measured in": name_of(self.verdict.precision)}
        return precision | about_inputs(self.moved)

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Every site, and every candidate that is none with its reason, a row each."""
        return [*map(_site, self.sites), *({"path": r.path, "op": r.op, "reason": r.reason} for r in self.rejected)]

    def plot(self) -> Figure:
        """The parameters of every site, and what its term adds, as a figure."""
        own = {site.path: site.parameters for site in self.sites}
        added = {site.path: site.added_parameters for site in self.sites}
        return parameters_of(f"{len(self.sites)} sites of {self.group.name}", own, added)

    def __str__(self) -> str:
        lines = [f"{len(self.sites)} sites of {self.group.name}"]
        lines += [f"  input {name}: {what}" for name, what in self.moved.items()]
        lines += [f"  {site.path}: {_map_of(site)}" for site in self.sites]
        lines += [f"  not {rejected.path}: {rejected.op}: {rejected.reason}" for rejected in self.rejected]
        lines += [f"  {UNCHECKED}"] if self.verdict is None else []
        return "\n".join(lines)


def _map_of(site: Site) -> str:
    error = f", interpolation error {site.map.interpolation:.1e}" if site.map.interpolation else ""
    convolution = site.map.convolution
    taps = " " + "x".join(map(str, convolution.size)) if convolution is not None and convolution.size else ""
    idle = f", idle: {site.idle}" if site.idle else ""
    factors = f", {site.factors}" if site.factors else ""
    return f"{site.map.op}{taps} {site.map.rep_in} -> {site.map.rep_out}{factors}{error}{idle}"


def _site(site: Site) -> dict[str, Any]:
    return {
        "path": site.path,
        "op": site.map.op,
        "adapter": site.map.adapter,
        "rep_in": str(site.map.rep_in),
        "rep_out": str(site.map.rep_out),
        "factors": str(site.factors) if site.factors else None,
        "evidence": str(site.evidence),
        "location": site.location,
        "parameters": site.parameters,
        "adds": site.added_parameters,
        "proof": site.proof,
        "interpolation": site.map.interpolation,
        "unfoldable": site.map.unfoldable,
        "aliases": [path for path, _ in site.aliases],
        "idle": site.idle or None,
    }
