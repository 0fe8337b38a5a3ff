"""From a claim to a site: selected by the user's patterns, not trivial, and numerically proved to commute with the group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from relaxify.modules.checks import check_site
from relaxify.modules.patterns import Pattern, check_patterns, select
from relaxify.sites import Rejected, RejectionKind, Site

TOLERANCE = 1e-6

Value = TypeVar("Value")

Names = Sequence[tuple[str, nn.Module]]


class Selection:
    """Decides on the claims made for one model. A layer is selected by any of its names, and by those of its aliases."""

    def __init__(
        self, model: nn.Module, include: Sequence[Pattern], exclude: Sequence[Pattern], *, to_be_trained: bool = True
    ) -> None:
        self.model = model
        self.to_be_trained = to_be_trained
        self.include = include
        self.exclude = exclude
        self._candidates: dict[str, Names] = {}
        self._proved: dict[Hashable, float] = {}
        self._paths: defaultdict[int, list[str]] = defaultdict(list)
        self._users: defaultdict[int, set[int]] = defaultdict(set)
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths[id(module)].append(path)
            for parameter in module._parameters.values():
                self._users[id(parameter)].add(id(module))

    def decide(self, claims: Iterable[Site | Rejected]) -> list[Site | Rejected]:
        """Each claim as a proved site, or rejected with the reason."""
        return [self._decided(claim) for claim in claims]

    def note(self, decided: Iterable[Site | Rejected]) -> None:
        """Take down, for `check` and `value_for`, what has been decided on elsewhere."""
        self._candidates |= {entry.path: self._names(entry) for entry in decided}

    def check(self, arguments: Mapping[str, Sequence[Pattern]]) -> None:
        """ValueError for a pattern that selects nothing of what has been decided on."""
        check_patterns(arguments, [name for names in self._candidates.values() for name in names])

    def value_for(self, site: Site, by_pattern: Mapping[Pattern, Value], default: Value) -> Value:
        """The value of the first pattern that selects a site."""
        names = self._candidates[site.path]
        return next((value for pattern, value in by_pattern.items() if select([pattern], names)), default)

    def _decided(self, claim: Site | Rejected) -> Site | Rejected:
        path, names = claim.path, self._names(claim)
        self._candidates[path] = names
        if isinstance(claim, Rejected):
            return claim
        rep_in, rep_out, op = claim.map.rep_in, claim.map.rep_out, claim.map.op
        if select(self.exclude, names):
            return Rejected(path, op, kind=RejectionKind.excluded)
        if self.include and not select(self.include, names):
            return Rejected(path, op, kind=RejectionKind.not_included)
        if rep_in.dim == 0 or rep_out.dim == 0:
            return Rejected(path, op, "it has no features to mix", RejectionKind.trivial)
        if rep_in.is_trivial and rep_out.is_trivial:
            reason = f"invariant -> invariant: it cannot break {rep_in.group.name}"
            return Rejected(path, op, reason, RejectionKind.trivial)
        if self.to_be_trained:
            check_site(claim)
        error = self._error(claim)
        if not error <= TOLERANCE:
            return Rejected(path, op, f"it does not commute with {rep_in.group.name}", RejectionKind.unsound, error=error)
        return replace(self._foldable_alone(claim), proof=error)

    def _error(self, site: Site) -> float:
        key = (site.map.adapter, site.map.op, site.structure)
        if site.structure is None or site.aliases:
            return site.error()
        if key not in self._proved:
            self._proved[key] = site.error()
        return self._proved[key]

    def _names(self, claim: Site | Rejected) -> Names:
        tied = [module for _, module in claim.aliases] if isinstance(claim, Site) else []
        return [(path, module) for module in (self._module_at(claim.path), *tied) for path in self._paths[id(module)]]

    def _module_at(self, path: str) -> nn.Module:
        """The module at this path, or that holds the parameter at this path."""
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            return self.model.get_submodule(path.rpartition(".")[0])

    def _foldable_alone(self, site: Site) -> Site:
        """What is folded into a weight must not change a layer that uses the same weight in another way."""
        modules = [site.module, *(module for _, module in site.aliases)]
        of_derived = [name for each in site.map.derived for name in each.derivation.parameters(site.module)]
        for parameter in (*(path.parameter for path in site.map.paths), *of_derived):
            owner, _, name = parameter.rpartition(".")
            own = {id(module.get_submodule(owner)) for module in modules}
            if self._users[id(site.module.get_submodule(owner)._parameters[name])] - own:
                reason = "its weight is shared with a layer that uses it in another way"
                return replace(site, map=replace(site.map, paths=(), derived=(), attribute=None, unfoldable=reason))
        return site
