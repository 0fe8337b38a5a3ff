"""cuequivariance_torch: Linear, in either layout.

The layer does not say whether its features are laid out as (mul, ir) or (ir, mul): what it commutes with is measured.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn

from relaxify.groups import Group
from relaxify.proof import commutation_error, generic_input, generic_twin, structure
from relaxify.representations import Layout, Representation
from relaxify.sites import EquivariantMap, Path, Rejected, Site

LAYOUTS: tuple[Layout, ...] = ("component_major", "channel_major")


class CuequivarianceAdapter:
    """Finds cuequivariance_torch's Linear layers."""

    name = "cuequivariance"

    def __init__(self) -> None:
        self._measured: dict[Hashable, tuple[Layout, Layout]] = {}

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of a cuequivariance_torch.Linear, or why there is none."""
        # a model with one of its layers has loaded the library
        library = sys.modules.get("cuequivariance_torch")
        if library is None or type(module) is not library.Linear:
            return
        kind = _kind(module.irreps_in.irrep_class)  # type: ignore[union-attr]
        if (kind, group.name) not in {("SO3", "SO(3)"), ("O3", "SO(3)"), ("O3", "O(3)")}:
            yield Rejected(path, "cuet.Linear", f"its irreps are of {kind}, and {group.name} has other elements")
        elif reason := _unsupported(module):
            yield Rejected(path, "cuet.Linear", reason)
        else:
            yield self._linear(path, module, group)

    def _linear(self, path: str, module: Any, group: Group) -> Site:
        form = structure(module)
        if form not in self._measured:
            self._measured[form] = _layouts(module, group)
        map_ = _map(module, group, *self._measured[form])
        return Site(path, module, map_, functools.partial(_error, module, map_), structure=form)


def _kind(irreps: Any) -> str:
    """The name of a class of irreps, or of the library's own that has the same matrices: MACE's has other products alone."""
    import cuequivariance

    known = (cuequivariance.O3, cuequivariance.SO3)
    like = [kind for kind in known if issubclass(irreps, kind) and irreps.X is kind.X]
    return (like[0] if like else irreps).__name__


def _unsupported(module: Any) -> str | None:
    if not module.internal_weights:
        return "its weights are inputs of the call, not parameters"
    if module.weight_classes > 1:
        return "it has several weights side by side (weight_classes); only one map per layer can be relaxed"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    return None


def _layouts(module: Any, group: Group) -> tuple[Layout, Layout]:
    """The layouts, in and out, with which it commutes best; with none, the proof fails later."""
    return min(itertools.product(LAYOUTS, LAYOUTS), key=lambda layouts: _error(module, _map(module, group, *layouts)))


def _map(module: Any, group: Group, layout_in: Layout, layout_out: Layout) -> EquivariantMap:
    rep_in = representation(group, module.irreps_in, layout_in)
    rep_out = representation(group, module.irreps_out, layout_out)
    return EquivariantMap("cuequivariance", "cuet.Linear", rep_in, rep_out, argument="x", paths=tuple(_paths(module)))


def _paths(module: Any) -> Iterator[Path]:
    """Each path multiplies one segment of the weight, of shape (channels in, channels out), with a coefficient."""
    import cuequivariance

    descriptor = cuequivariance.descriptors.linear(module.irreps_in, module.irreps_out)
    product = descriptor.polynomial.operations[0][1]
    sizes = [u * v for u, v in product.operands[0].segments]
    offsets = list(itertools.accumulate(sizes, initial=0))
    for weighted in product.paths:
        weight, block_in, block_out = weighted.indices
        yield Path("weight", offsets[weight], block_in, block_out, float(weighted.coefficients))


def _error(module: Any, map_: EquivariantMap) -> float:
    return commutation_error(generic_twin(module), map_.rep_in, map_.rep_out, generic_input(4, map_.rep_in.dim))


def representation(group: Group, irreps: Any, layout: Layout) -> Representation:
    """cuequivariance's irreps, in the library's own basis, as a representation of SO(3) or O(3)."""
    total = Representation(group, (), ())
    for mul, ir in irreps:
        rotations = torch.from_numpy(ir.X).to(torch.float64)
        parity = getattr(ir, "p", 1) * torch.eye(ir.dim, dtype=torch.float64)[None]
        actions = torch.cat([rotations, parity[: len(group.finite)]])
        total = total + Representation.of(group, str(ir), mul, actions, layout)
    return total


adapter = CuequivarianceAdapter()
