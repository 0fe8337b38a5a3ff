"""What adapters claim of a model, each operation once, and what only runs on example inputs could tell of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from relaxify.grids.convolution import CONVOLUTIONS
from relaxify.groups import Group
from relaxify.modules.hanging import CHILD
from relaxify.registry import claims_on
from relaxify.sites import Rejected, RejectionKind, Site


def claims_of(model: nn.Module, group: Group) -> list[Site | Rejected]:
    """What the adapters say about each module, once if it has several names."""
    first: dict[int, tuple[str, nn.Module]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        first.setdefault(id(module), (path, module))
    return united(claim for path, module in first.values() for claim in claims_on(path, module, group))


def unjudged(model: nn.Module, claims: Sequence[Site | Rejected]) -> Iterator[Rejected]:
    """What only example inputs could tell about: torch's linear layers, and the weights that other modules hold themselves.

    A weight that mixes channels has two axes or more; parameters of fewer are taken for biases and scales.
    """
    claimed = {claim.path for claim in claims}
    for path, module in model.named_modules():
        if type(module) is nn.Linear and path not in claimed:
            yield Rejected(path, "Linear", kind=RejectionKind.unjudged)
        if _is_torchs_own(module) or CHILD in path.split("."):
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim > 1 and not any(f"{name}.".startswith(f"{above}.".lstrip(".")) for above in claimed):
                yield Rejected(name, type(module).__name__, kind=RejectionKind.unjudged)


def _is_torchs_own(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's, or TorchScript, whose operations no run shows."""
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return False
    is_layer = type(module).__module__.startswith("torch.nn.modules.") and type(module) is not nn.Module
    return is_layer or isinstance(module, torch.jit.ScriptModule)


def united(found: Iterable[Site | Rejected]) -> list[Site | Rejected]:
    """Each op once: a module reached twice, or a weight shared by two modules, is one site."""
    entries: list[Site | Rejected] = []
    claimed: set[Hashable] = set()
    first_with: dict[Hashable, int] = {}
    for entry in found:
        if isinstance(entry, Site):
            op = (id(entry.module), entry.map.intercepts)
            if op in claimed:
                continue
            claimed.add(op)
            index = first_with.setdefault(_identity(entry), len(entries))
            if index < len(entries):
                entries[index] = _tied(entries[index], entry)
                continue
        entries.append(entry)
    return entries


def alone(model: nn.Module, found: Sequence[Site | Rejected], *, symmetrise: bool) -> list[Site | Rejected]:
    """Ordinary convolutions are sites only in a model without other layers, whose outputs may carry anything."""
    ordinary = {path for path, module in model.named_modules(remove_duplicate=False) if type(module) in CONVOLUTIONS}
    others = sorted({entry.map.op if isinstance(entry, Site) else entry.op for entry in found if entry.path not in ordinary})
    reason = f"next to {', '.join(others)} its channels may carry anything"
    result: list[Site | Rejected] = []
    for entry in found:
        if not (isinstance(entry, Site) and _is_symmetrised(entry)) or (symmetrise and not others):
            result.append(entry)
        elif symmetrise:
            result.append(Rejected(entry.path, entry.map.op, reason))
    return result


def _is_symmetrised(site: Site) -> bool:
    return site.map.convolution is not None and site.map.convolution.kernel.symmetriser is not None


def _identity(site: Site) -> Hashable:
    """Equal for two sites that are one: they share the weight, if not the bias, and use it in the same way."""
    map_, module = site.map, site.module
    own = {name for name, _ in module.named_parameters(recurse=False)}
    linear = set() if map_.convolution is None else {map_.convolution.kernel.parameter}
    parameters = {path.parameter for path in map_.paths} or set(map_.intercepts) or linear or own
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
