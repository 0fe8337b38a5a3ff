"""Fold for weights that are made of parameters by a linear map E: the values of these whose matrix is nearest to theta * W.

That E is linear, has the gradients that it claims, and makes nothing but intertwiners is measured on random values: E is
what somebody's forward does, and nothing of it is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from relaxify.graph.derived_weights import DerivedWeight
from relaxify.intertwiners import lie_derivative
from relaxify.relaxation.terms.nearest_kernel import nearest_coefficients
from relaxify.sites import EquivariantMap

CODE_NEEDED = "its weight is made of its parameters by the model's own code; fold the model itself, not its checkpoint"
NOT_LINEAR = "its weight is not linear in any of the parameters that it is made of"
NOT_ALIKE = "its calls make different weights of the same parameters"
NOT_EQUIVARIANT = "its weight commutes with the group for some values of its parameters only"

# of a linear map in float64; and what the fit of a representation leaves
_ROUNDING, _FITTED = 1e-9, 1e-5


class Expansion:
    """E: the core of a derived weight as a linear map of some of its parameters, flat, the others being as they are."""

    def __init__(self, derived: DerivedWeight, layer: nn.Module, names: Sequence[str]) -> None:
        self.derived = derived
        self.layer = layer
        parameters = derived.derivation.parameters(layer)
        self.shapes = {name: parameters[name].shape for name in names}
        self.is_complex = {name: parameters[name].is_complex() for name in names}
        self.sizes = {name: math.prod(shape) * (1 + self.is_complex[name]) for name, shape in self.shapes.items()}
        self.size = sum(self.sizes.values())
        self.offset = self._core(torch.zeros(self.size, dtype=torch.float64))

    def _core(self, flat: Float[Tensor, " coefficients"]) -> Float[Tensor, "..."]:
        return self.derived.of(self.layer, {name: part.view(self.shapes[name]) for name, part in self.parts(flat)})

    def __call__(self, flat: Float[Tensor, " coefficients"]) -> Float[Tensor, "..."]:
        return self._core(flat) - self.offset

    def parts(self, flat: Float[Tensor, " coefficients"]) -> Iterator[tuple[str, Shaped[Tensor, "_"]]]:
        """The entries of each parameter."""
        for name, part in zip(self.shapes, flat.split(list(self.sizes.values())), strict=True):
            yield name, torch.view_as_complex(part.view(-1, 2)) if self.is_complex[name] else part

    def matrix(self, flat: Float[Tensor, " coefficients"]) -> Float[Tensor, "n_out n_in"]:
        return self.derived.matrix(self(flat))

    def is_linear(self) -> bool:
        """Whether E(a + b) = E(a) + E(b), not 0, with the gradients of that map, at random values."""
        a, b = _random(self.size, 0), _random(self.size, 1)
        at_a, at_b, at_both = map(self, (a, b, a - 2 * b))
        size = at_both.norm()
        if not (at_both.isfinite().all() and size > 0 and (at_both - at_a + 2 * at_b).norm() <= _ROUNDING * size):
            return False
        with torch.enable_grad():
            point = a.clone().requires_grad_()
            value = (self(point) * at_b).sum()
            slope = torch.autograd.grad(value, point)[0] if value.requires_grad else torch.zeros_like(a)
        return abs(float(slope @ a - (at_a * at_b).sum())) <= _ROUNDING * float(at_a.norm() * at_b.norm())

    def nearest(
        self, matrix: Float[Tensor, "n_out n_in"], map_: EquivariantMap, moment: Float[Tensor, "n n"] | None = None
    ) -> Float[Tensor, " coefficients"]:
        """The values whose matrix is nearest to this one, on inputs of this moment if it is given."""
        wanted = matrix.detach().to("cpu", torch.float64)
        target = self.derived.nearest_core(wanted)
        return nearest_coefficients(self.size, self, target, map_, self.matrix, wanted, moment)


@torch.no_grad()
def expansion(map_: EquivariantMap, layer: nn.Module) -> Expansion | str:
    """The weight of a layer as a linear map of all its parameters, or of the largest that it is linear in; or why not."""
    first, *others = map_.derived
    names = list(first.derivation.parameters(layer))
    alone = sorted(([name] for name in names), key=lambda own: -layer.get_parameter(own[0]).numel())
    found = next(filter(None, (_linear(first, layer, own) for own in [names, *alone])), None)
    if found is None:
        return NOT_LINEAR
    values = _random(found.size, 2)
    for other in others:
        twin = _linear(other, layer, list(found.shapes)) if found.shapes.keys() <= set(other.derivation.names) else None
        if twin is None or twin(values).shape != found(values).shape or not torch.allclose(twin(values), found(values)):
            return NOT_ALIKE
    matrix = found.matrix(values)
    error = known_part(map_, lie_derivative(matrix, map_.rep_in, map_.rep_out)).norm()
    return found if error <= _FITTED * matrix.norm() else NOT_EQUIVARIANT


def known_part(map_: EquivariantMap, matrix: Float[Tensor, "*many n_out n_in"]) -> Float[Tensor, "*many n_out n_in"]:
    """What of a matrix is between features of which it is known how they transform."""
    if map_.reached is None:
        return matrix
    (into,), (out,) = map_.rep_in.blocks, map_.rep_out.blocks
    of_in, of_out = map_.reached
    rows = into.merge(torch.einsum("...ui,ij->...uj", into.split(matrix), of_in))
    return out.merge(torch.einsum("...ui,ij->...uj", out.split(rows.mT), of_out)).mT


def _linear(derived: DerivedWeight, layer: nn.Module, names: Sequence[str]) -> Expansion | None:
    try:
        found = Expansion(derived, layer, names)
        return found if found.is_linear() else None
    except Exception:
        # what ran once, on other values, in somebody's own forward
        return None


def _random(size: int, seed: int) -> Float[Tensor, " coefficients"]:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
