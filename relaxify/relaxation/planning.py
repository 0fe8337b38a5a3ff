"""plan: which sites would be relaxed, and which candidates not and why, at no change to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from relaxify.groups import Group
from relaxify.registry import adapters
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.preconditions import check_model, check_site
from relaxify.relaxation.selection import Pattern, check_patterns, matches
from relaxify.sites import Rejected, Site

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """What `relaxify` would do: the sites it would relax with their configs, and every rejected candidate's reason."""

    group: Group
    sites: tuple[Site, ...]
    rejected: tuple[Rejected, ...]
    configs: Mapping[str, RelaxConfig]
    looked_at: Mapping[str, int]

    @property
    def unsound(self) -> tuple[Rejected, ...]:
        """Candidates that claim to be equivariant and failed the numeric proof."""
        return tuple(rejected for rejected in self.rejected if rejected.unsound)

    def __str__(self) -> str:
        lines = [f"{len(self.sites)} sites of {self.group.name}"]
        lines += [f"  {site.path}: {site.map.op} {site.map.rep_in} -> {site.map.rep_out}" for site in self.sites]
        lines += [f"  not {rejected.path}: {rejected.op}: {rejected.reason}" for rejected in self.rejected]
        return "\n".join(lines)


def plan(
    model: nn.Module,
    group: Group | str,
    *,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    config: RelaxConfig = RelaxConfig(),
    overrides: Mapping[Pattern, RelaxConfig] | None = None,
) -> Plan:
    """Every equivariant linear op that `relaxify` would relax, each numerically proved to commute with the group.

    - `include`, `exclude`: see `relaxify`.

    ValueError for an unknown group, a model that cannot be changed (compiled, wrapped, lazy, half precision, NaN weights),
    or a pattern that matches nothing. The model is not changed.
    """
    group = Group.parse(group)
    overrides = overrides or {}
    check_model(model)
    found = list(_find(model, group))
    candidates = [(entry.path, model.get_submodule(entry.path)) for entry in found]
    check_patterns([("include", include), ("exclude", exclude), ("overrides", tuple(overrides))], candidates)
    sites: list[Site] = []
    rejected: list[Rejected] = []
    for entry, (path, module) in zip(found, candidates, strict=True):
        chosen = _decide(entry, path, module, include, exclude)
        sites.append(chosen) if isinstance(chosen, Site) else rejected.append(chosen)
    configs = {site.path: _config(site, config, overrides) for site in sites}
    types = Counter(type(module).__name__ for module in model.modules())
    return Plan(group, tuple(sites), tuple(rejected), configs, types)


def _find(model: nn.Module, group: Group) -> Iterator[Site | Rejected]:
    """Each claimed op once: a module reached twice, or a weight shared by two modules, is one site."""
    seen: set[int] = set()
    owners: dict[tuple[int, ...], Site] = {}
    entries: list[Site | Rejected] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in seen:
            continue
        for adapter in adapters():
            for entry in adapter.sites(path, module, group):
                if isinstance(entry, Site):
                    if id(entry.module) in seen:
                        continue
                    seen.add(id(entry.module))
                    weights = tuple(id(p) for p in entry.module.parameters(recurse=False))
                    if weights and weights in owners:
                        first = owners[weights]
                        tied = replace(first, aliases=(*first.aliases, (entry.path, entry.module)))
                        entries[entries.index(first)] = owners[weights] = tied
                        continue
                    owners[weights] = entry
                entries.append(entry)
    yield from entries


def _decide(
    entry: Site | Rejected, path: str, module: nn.Module, include: Sequence[Pattern], exclude: Sequence[Pattern]
) -> Site | Rejected:
    if isinstance(entry, Rejected):
        return entry
    if any(matches(pattern, path, module) for pattern in exclude):
        return Rejected(path, entry.map.op, "excluded")
    if include and not any(matches(pattern, path, module) for pattern in include):
        return Rejected(path, entry.map.op, "not included")
    rep_in, rep_out = entry.map.rep_in, entry.map.rep_out
    if rep_in.dim == 0 or rep_out.dim == 0:
        return Rejected(path, entry.map.op, "it has no features to mix")
    if rep_in.is_trivial and rep_out.is_trivial:
        return Rejected(path, entry.map.op, f"invariant -> invariant: it cannot break {rep_in.group.name}")
    check_site(entry)
    error = entry.error()
    if not error <= TOLERANCE:
        reason = f"it does not commute with {rep_in.group.name}: relative error {error:.1e} in float64"
        return Rejected(path, entry.map.op, reason, unsound=True)
    return replace(entry, evidence=f"{entry.evidence}, error {error:.0e}")


def _config(site: Site, default: RelaxConfig, overrides: Mapping[Pattern, RelaxConfig]) -> RelaxConfig:
    for pattern, config in overrides.items():
        if matches(pattern, site.path, site.module):
            return config
    return default
