"""Permutation-equivariant layers of Deep Sets (Zaheer et al. 2017, arXiv 1703.06114, Lemma 3), and their adapter."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from relaxify.groups import Group
from relaxify.proof import commutation_error, generic_input, generic_twin
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Path, Rejected, Site


class DeepSetsLinear(nn.Module):
    """x A + mean_n(x) B + bias on sets of `set_size` elements, [..., set_size, in_features]: commutes with S(set_size).

    >>> layer, x = DeepSetsLinear(4, 3, 2), torch.randn(8, 4, 3)
    >>> order = [2, 0, 3, 1]
    >>> torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-6)
    True
    """

    def __init__(self, set_size: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.set_size = set_size
        self.A = nn.Parameter(torch.randn(in_features, out_features) / in_features**0.5)
        self.B = nn.Parameter(torch.randn(in_features, out_features) / in_features**0.5)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.A + x.mean(dim=-2, keepdim=True) @ self.B
        return y if self.bias is None else y + self.bias


class DeepSetsAdapter:
    """Finds `DeepSetsLinear`: elements are permuted, and every element has the same channels."""

    name = "deep_sets_layers"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        if type(module) is not DeepSetsLinear:
            return
        own = Group.parse(f"S({module.set_size})")
        if group != own:
            yield Rejected(path, "DeepSetsLinear", f"it commutes with {own.name}; {group.name} was asked for")
            return
        # elements before channels: the group moves the outer axis of the two
        features, layout = Features((-2, -1)), "component_major"
        map_ = EquivariantMap(
            self.name,
            "DeepSetsLinear",
            Representation.defining(group, module.A.shape[0], layout),
            Representation.defining(group, module.A.shape[1], layout),
            features,
            features,
            argument="x",
            # A is w (x) identity. B is w (x) mean, which commutes too but is no path, so `fold` leaves it as it is.
            paths=(Path("A", 0, 0, 0, order="in_out"),),
        )
        yield Site(path, module, map_, functools.partial(_error, module, map_))


@torch.no_grad()
def _error(layer: DeepSetsLinear, map_: EquivariantMap) -> float:
    """How far the layer, with random weights, is from commuting with permutations."""
    x, features = generic_input(4, layer.set_size, layer.A.shape[0]), map_.features_in
    return commutation_error(generic_twin(layer), map_.rep_in, map_.rep_out, x, features_in=features, features_out=features)


adapter = DeepSetsAdapter()
