"""Vector Neurons (Deng et al. 2021): the VNLinear families of FlyingGiraffe/vnn, recognised by class name and structure.

They live in users' own files, so there is no type to import: a class of one of these names whose maps are bias-free
nn.Linears on channels is taken, and the whole layer is proved equivariant before its maps are relaxed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Path, Rejected, Site, commutation_error, probe
from torch import nn

MAPS = {
    "VNLinear": ("map_to_feat",),
    "VNLeakyReLU": ("map_to_dir",),
    "VNLinearLeakyReLU": ("map_to_feat", "map_to_dir"),
    "VNMaxPool": ("map_to_dir",),
    "VNStdFeature": ("vn_lin",),
}
"""For each class, the names of its maps on channels. The vector axis is axis 2 of [B, C, 3, N, ...], 1 of [B, 3, C]."""


class VectorNeuronsAdapter:
    """Finds the feature maps and the direction maps of Vector Neuron layers."""

    name = "vector_neurons"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """A site for each map of a Vector Neuron layer, or why there is none."""
        names = MAPS.get(type(module).__name__)
        if names is None:
            return
        for name in names:
            inner = f"{path}.{name}" if path else name
            op = f"{type(module).__name__}.{name}"
            layer = getattr(module, name, None)
            if type(layer) is not nn.Linear:
                found = "nothing" if layer is None else f"a {type(layer).__name__}"
                yield Rejected(inner if layer is not None else path, op, f"{name} should be an nn.Linear but is {found}")
            elif group.dim != 3 or len(group.generators) + len(group.finite) == 0:
                yield Rejected(inner, op, f"vectors have 3 components, but {group.name} acts on {group.dim}")
            elif layer.bias is not None:
                yield Rejected(inner, op, "its bias on vector channels breaks equivariance", unsound=True)
            else:
                yield _site(inner, op, module, layer, group)


def _site(path: str, op: str, owner: nn.Module, layer: nn.Linear, group: Group) -> Site:
    # channels are moved to the end before the map, so its input is [B, N, ..., 3, C]: components before channels
    features = Features((2, -1))
    map_ = EquivariantMap(
        "vector_neurons",
        op,
        Representation.defining(group, layer.in_features, "component_major"),
        Representation.defining(group, layer.out_features, "component_major"),
        features,
        features,
        paths=(Path("weight", 0, 0, 0, order="out_in"),),
    )
    return Site(path, layer, map_, functools.partial(_error, owner, group), evidence="name and structure")


def _error(owner: nn.Module, group: Group) -> float:
    """How far the whole layer, non-linearity included, is from commuting with the group on the vector axis."""
    channels = next(m.in_features for m in owner.modules() if isinstance(m, nn.Linear))
    points = {3: (), 5: (5, 2)}.get(getattr(owner, "dim", 4), (5,))
    x = torch.randn(4, channels, 3, *points, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vector, twin = Representation.defining(group), probe(owner)
    frame = isinstance(twin(x), tuple)
    # VNStdFeature returns invariants and the frame [B, 3, frame vectors, N, ...], whose vector axis comes first
    layer = (lambda rows: twin(rows)[1]) if frame else twin
    axis_out = Features((1,) if frame else (2,))
    return commutation_error(layer, vector, vector, x, features_in=Features((2,)), features_out=axis_out)


adapter = VectorNeuronsAdapter()
