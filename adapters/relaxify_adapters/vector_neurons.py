"""Vector Neurons (Deng et al. 2021): the VNLinear families of FlyingGiraffe/vnn, recognised by class name and structure.

They live in users' own files, so there is no type to import: a class of one of these names whose maps are bias-free
nn.Linears on channels is taken, and the whole layer is proved equivariant before its maps are relaxed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from relaxify.groups import Group
from relaxify.proof import commutation_error, generic_input, generic_twin, structure
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, EvidenceKind, Features, Path, Rejected, RejectionKind, Site

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
        kind = type(module).__name__
        proof = _Proof(module, group)
        for name in MAPS.get(kind, ()):
            layer = getattr(module, name, None)
            op, inner = f"{kind}.{name}", f"{path}.{name}" if path else name
            if type(layer) is not nn.Linear:
                where = inner if isinstance(layer, nn.Module) else path
                other = f"not the {kind} known here: its {name} should be an nn.Linear but is {_found(layer)}"
                yield Rejected(where, op, other, RejectionKind.unrecognised)
            elif reason := _unsupported(layer, group):
                yield Rejected(inner, op, reason)
            elif layer.bias is not None:
                yield Rejected(inner, op, "its bias on vector channels breaks equivariance", RejectionKind.unsound)
            elif reason := proof.misfit:
                yield Rejected(inner, op, reason, RejectionKind.unsound)
            else:
                yield _site(inner, op, module, layer, group, proof)


def _found(layer: object) -> str:
    return "missing" if layer is None else f"a {type(layer).__name__}"


def _unsupported(layer: nn.Linear, group: Group) -> str | None:
    if group.dim != 3:
        return f"vectors have 3 components, but {group.name} acts on {group.dim}"
    if not group.is_orthogonal:
        return f"Vector Neurons commute with rotations and reflections, and {group.name} has other elements"
    if "weight" not in layer._parameters:
        return "its weight is computed from other parameters"
    return None


def _site(path: str, op: str, owner: nn.Module, layer: nn.Linear, group: Group, error: Callable[[], float]) -> Site:
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
    return Site(path, layer, map_, error, evidence=EvidenceKind.name_and_structure, structure=structure(owner))


@dataclass(frozen=True, eq=False)
class _Proof:
    """What is proved of a whole layer, once for all its maps."""

    owner: nn.Module
    group: Group

    @functools.cached_property
    def _function(self) -> Callable[[Tensor], Tensor]:
        return _layer(self.owner)

    @functools.cached_property
    def misfit(self) -> str | None:
        """Why the layer is not run, if it cannot be."""
        try:
            self._function(_input(self.owner))
        except (RuntimeError, ValueError, IndexError) as error:
            return f"it does not take vectors on axis 2, as [batch, channels, 3, points]: {str(error).splitlines()[0]}"
        return None

    @functools.cached_property
    def error(self) -> float:
        """How far the layer, non-linearity included, is from commuting with the group on the vector axis."""
        vector = Representation.defining(self.group)
        # VNStdFeature's frame is [B, 3, frame vectors, N, ...]: its vector axis comes first
        features = Features((2,)), Features((1,) if type(self.owner).__name__ == "VNStdFeature" else (2,))
        x, function = _input(self.owner), self._function
        # sites outlive their proofs, and copies of layers would with them
        del vars(self)["_function"]
        return commutation_error(function, vector, vector, x, features_in=features[0], features_out=features[1])

    def __call__(self) -> float:
        return self.error


def _layer(owner: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer as a function from vectors to vectors, with random weights."""
    twin = generic_twin(owner)
    if type(owner).__name__ == "VNStdFeature":  # returns invariants and the frame they are measured in
        return lambda x: twin(x)[1]
    return twin


def _input(owner: nn.Module) -> Float[Tensor, "batch channels 3 *points"]:
    """Vectors in the number of axes that the layer is made for."""
    channels = next(m.in_features for m in owner.modules() if type(m) is nn.Linear)
    points = {3: (), 5: (5, 2)}.get(getattr(owner, "dim", 4), (5,))
    return generic_input(4, channels, 3, *points)


adapter = VectorNeuronsAdapter()
