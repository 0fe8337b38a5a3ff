"""plan: which sites would be relaxed, and which candidates not and why, at no change to the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from relaxify.graph.actions import InputAction
from relaxify.graph.detection import sites_by_data_flow
from relaxify.groups import Group
from relaxify.registry import adapters
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.preconditions import check_model, check_site
from relaxify.relaxation.selection import Pattern, check_patterns, matches, patterns_of
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
    example_inputs: Sequence[Any] | None = None,
    input_action: InputAction | None = None,
) -> Plan:
    """Every equivariant linear op that `relaxify` would relax, each numerically proved to commute with the group.

    - `include`, `exclude`, `config`, `overrides`: see `relaxify`. A layer with several names, or one that shares its weight
      with others, is selected by any of them.
    - `example_inputs`: arguments of the model's forward. With them, layers whose type proves nothing (a bare nn.Linear on
      vector channels) are judged by how their values transform when the inputs do.
    - `input_action`: (g, inputs) -> inputs moved by the group element's matrix g; by default every axis that has the size
      of g is a vector.

    ValueError for an unknown group, a model that cannot be changed (compiled, wrapped, lazy, half precision, NaN weights),
    or a pattern that matches nothing. The model is not changed.
    """
    group = Group.parse(group)
    overrides = {} if overrides is None else overrides
    _check_configs(config, overrides)
    include, exclude = patterns_of("include", include), patterns_of("exclude", exclude)
    check_model(model)
    found = list(_foldable_alone(model, _find(model, group)))
    if example_inputs is not None:
        found = _with_evidence(model, group, found, tuple(example_inputs), input_action)
    names = _names(model, found)
    patterns = {"include": include, "exclude": exclude, "overrides": patterns_of("overrides", overrides)}
    check_patterns(patterns, [name for of_entry in names.values() for name in of_entry])
    decided = [_decide(entry, names[entry.path], include, exclude) for entry in found]
    sites = [entry for entry in decided if isinstance(entry, Site)]
    rejected = [entry for entry in decided if isinstance(entry, Rejected)]
    configs = {site.path: _config(names[site.path], config, overrides) for site in sites}
    types = Counter(type(module).__name__ for module in model.modules())
    return Plan(group, tuple(sites), tuple(rejected), configs, types)


Names = Sequence[tuple[str, nn.Module]]


def _check_configs(config: RelaxConfig, overrides: Mapping[Pattern, RelaxConfig]) -> None:
    if not isinstance(overrides, Mapping):
        raise ValueError(f"overrides={overrides!r}: pass a dict from patterns to RelaxConfig(...).")
    for name, value in {"config": config, **{f"overrides[{key!r}]": value for key, value in overrides.items()}}.items():
        if not isinstance(value, RelaxConfig):
            raise ValueError(f"{name}={value!r} is no RelaxConfig; pass for example RelaxConfig(rank=16).")


def _find(model: nn.Module, group: Group) -> list[Site | Rejected]:
    """Each claimed op once: a module reached twice, or a weight shared by two modules, is one site."""
    entries: list[Site | Rejected] = []
    claimed: set[int] = set()
    first_with: dict[Hashable, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in claimed:
            continue
        for entry in (entry for adapter in adapters() for entry in adapter.sites(path, module, group)):
            if isinstance(entry, Site):
                if id(entry.module) in claimed:
                    continue
                claimed.add(id(entry.module))
                index = first_with.setdefault(_identity(entry), len(entries))
                if index < len(entries):
                    entries[index] = _tied(entries[index], entry)
                    continue
            entries.append(entry)
    return entries


def _with_evidence(
    model: nn.Module, group: Group, found: list[Site | Rejected], inputs: tuple[Any, ...], action: InputAction | None
) -> list[Site | Rejected]:
    """Add what data flow says of operations that no adapter knows; where one could not say, evidence takes its place."""
    unknown = [entry for entry in found if isinstance(entry, Rejected) and entry.unknown]
    settled = [entry for entry in found if entry not in unknown]
    flow = sites_by_data_flow(model, group, inputs, action, [entry.path for entry in settled])
    unsettled = [
        entry for entry in unknown if not any(f"{other.path}.".startswith(f"{entry.path}.".lstrip(".")) for other in flow)
    ]
    return [*settled, *unsettled, *flow]


def _foldable_alone(model: nn.Module, entries: Iterable[Site | Rejected]) -> Iterator[Site | Rejected]:
    """What is folded into a weight must not change a layer that uses the same weight otherwise."""
    users = defaultdict(set)
    for module in model.modules():
        for parameter in module._parameters.values():
            users[id(parameter)].add(id(module))
    for entry in entries:
        if isinstance(entry, Site):
            own = {id(module) for _, module in ((entry.path, entry.module), *entry.aliases)}
            if any(users[id(entry.module.get_parameter(path.parameter))] - own for path in entry.map.paths):
                reason = "its weight is shared with a layer that uses it otherwise"
                entry = replace(entry, map=replace(entry.map, paths=(), attribute=None, unfoldable=reason))
        yield entry


def _identity(site: Site) -> Hashable:
    """Equal for two sites that are one: they share the weight, if not the bias, and use it in the same way."""
    map_, module = site.map, site.module
    parameters = {path.parameter for path in map_.paths} or {name for name, _ in module.named_parameters(recurse=False)}
    weights = tuple(id(module.get_parameter(name)) for name in sorted(parameters))
    use = (map_.rep_in.blocks, map_.rep_out.blocks, map_.features_in, map_.features_out, map_.argument, map_.paths)
    return (weights or id(module), use)


def _tied(first: Site | Rejected, other: Site) -> Site:
    assert isinstance(first, Site)
    aliases = (*first.aliases, (other.path, other.module))
    return replace(first, aliases=aliases, error=partial(_worst, first.error, other.error))


def _worst(*errors: Callable[[], float]) -> float:
    """The largest, or NaN if one is."""
    return float(torch.tensor([error() for error in errors], dtype=torch.float64).max())


def _names(model: nn.Module, found: Iterable[Site | Rejected]) -> dict[str, Names]:
    """For each entry, by its path, every name of its module and of those that share its weight."""
    paths = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        paths[id(module)].append(path)
    names: defaultdict[str, list[tuple[str, nn.Module]]] = defaultdict(list)
    for entry in found:
        tied = [module for _, module in entry.aliases] if isinstance(entry, Site) else []
        for module in (_module_at(model, entry.path), *tied):
            names[entry.path] += [(path, module) for path in paths[id(module)]]
    return dict(names)


def _module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at this path, or that holds the parameter at this path."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return model.get_submodule(path.rpartition(".")[0])


def _selected(patterns: Iterable[Pattern], names: Names) -> bool:
    return any(matches(pattern, path, module) for pattern in patterns for path, module in names)


def _decide(entry: Site | Rejected, names: Names, include: Sequence[Pattern], exclude: Sequence[Pattern]) -> Site | Rejected:
    if isinstance(entry, Rejected):
        return entry
    path = entry.path
    if _selected(exclude, names):
        return Rejected(path, entry.map.op, "excluded")
    if include and not _selected(include, names):
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
    return replace(entry, proof=error)


def _config(names: Names, default: RelaxConfig, overrides: Mapping[Pattern, RelaxConfig]) -> RelaxConfig:
    return next((config for pattern, config in overrides.items() if _selected([pattern], names)), default)
