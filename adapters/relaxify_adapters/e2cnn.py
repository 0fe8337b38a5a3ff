"""e2cnn, the library of the plane that escnn grew out of: its convolutions, over C(n) and D(n) inside of a gspace's group.

They make and keep their kernels as escnn's do. Of groups that turn kernels between taps, the taps' action is fitted to the
layer's own kernels.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.taps import (
    Equivariants,
    acts_exactly,
    fitted,
    grid_actions,
    interpolation_error,
    kernel_representation,
)
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative
from relaxify.proof import generic_input, generic_twin
from relaxify.representations import Block, Representation
from relaxify.sites import EquivariantMap, Features, Rejected, Site
from relaxify_adapters.steerable import SteerableKernel, claims, convolution_of

_RELAXED = ("R2Conv", "R2ConvTransposed")
# up to this interpolation error a penalty can still tell equivariant kernels from others
_TELLING = 0.1


class E2cnnAdapter:
    """Finds e2cnn's steerable convolutions."""

    name = "e2cnn"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of a convolution, or why there is none."""
        return claims("e2cnn", _RELAXED, path, module, functools.partial(_claim, path, module, group))


@dataclass(frozen=True)
class PlaneKernel(SteerableKernel):
    """Tensors without coordinates."""

    def wrap(self, layer: Any, tensor: Tensor, value: Any) -> Any:
        return type(value)(tensor, layer.out_type)


def _claim(path: str, module: Any, group: Group) -> Site | Rejected:
    op = f"e2cnn.{type(module).__name__}"
    elements = [_element(module.in_type.gspace, matrix) for matrix in group.finite] if group.dim == 2 else []
    if group.dim != 2 or len(group.generators) or any(g is None for g in elements):
        name = module.in_type.gspace.name
        return Rejected(path, op, f"it is equivariant under {name}, of which {group.name} is no finite subgroup")
    convolution = convolution_of(module, 2, PlaneKernel("filter"))
    grid, error = _tap_action(module, group, elements, convolution.size)
    if error > _TELLING:
        reason = f"its taps are too far apart to tell where {group.name} moves its kernels (interpolation error {error:.1e})"
        return Rejected(path, op, reason)
    map_ = EquivariantMap(
        "e2cnn",
        op,
        kernel_representation(_representation(group, module.in_type, elements), grid),
        _representation(group, module.out_type, elements),
        features_in=Features((1,)),
        features_out=Features((1,)),
        convolution=convolution,
        interpolation=error,
    )
    return Site(path, module, map_, functools.partial(_error, module, map_, elements))


def _element(gspace: Any, matrix: Float[Tensor, "2 2"]) -> Any | None:
    """The element of a gspace's fibre group that moves the plane by this matrix."""
    known = [(g, _matrix(gspace, g)) for g in getattr(gspace.fibergroup, "elements", None) or ()]
    return next((g for g, moved in known if torch.allclose(moved, matrix, atol=1e-6)), None)


def _matrix(gspace: Any, g: Any) -> Float[Tensor, "2 2"]:
    """Turns, after a flip of y if there is one: an element is a number of turns, or a flip and such a number."""
    flip, turns = g if isinstance(g, tuple) else (0, g)
    kind, order = type(gspace).__name__, gspace.fibergroup.order()
    if kind == "Flip2dOnR2":
        flip, turns, order = g, 0, 1
    angle = 2 * math.pi * turns / (order // 2 if isinstance(g, tuple) else order)
    angle += 2 * gspace.axis if flip else 0.0
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64) @ torch.diag(
        torch.tensor([1.0, -1.0 if flip else 1.0], dtype=torch.float64)
    )


def _action(rep: Any, elements: list[Any]) -> Float[Tensor, "fin d d"]:
    acting = [torch.tensor(rep(g)).to(torch.float64) for g in elements]
    return torch.stack(acting) if acting else torch.zeros(0, rep.size, rep.size, dtype=torch.float64)


def _representation(group: Group, field_type: Any, elements: list[Any]) -> Representation:
    """The representation of a field type, equal neighbours as one block."""
    blocks: list[Block] = []
    actions: list[Tensor] = []
    for rep in field_type.representations:
        if blocks and blocks[-1].name == rep.name:
            blocks[-1] = replace(blocks[-1], multiplicity=blocks[-1].multiplicity + 1)
        else:
            blocks.append(Block(rep.name, 1, rep.size))
            actions.append(_action(rep, elements))
    return Representation(group, tuple(blocks), tuple(actions))


def _tap_action(module: Any, group: Group, elements: list[Any], size: tuple[int, ...]) -> tuple[Tensor, float]:
    """How the group acts on the taps, and the interpolation's error on the layer's own kernels."""
    grid = grid_actions(group.generators, group.finite, size)
    if acts_exactly(group.generators, group.finite, size):
        return grid, 0.0
    known = [
        Equivariants(block.sampled_basis.double(), _action(into, elements), _action(out, elements))
        for into, out, block in _blocks(module)
    ]
    grid = fitted(grid, known, 0)
    return grid, interpolation_error(grid, known, 0)


def _blocks(module: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(input representation, output representation, module that expands the kernels between the two)."""
    expansion = module.basisexpansion
    inputs, outputs = ({rep.name: rep for rep in kind.representations} for kind in (module.in_type, module.out_type))
    for pair in expansion._representations_pairs:
        yield inputs[pair[0]], outputs[pair[1]], getattr(expansion, f"block_expansion_{pair}")


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    """Kernels between several kinds of fields are put together in the default dtype, whatever the weights'."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def _error(module: Any, map_: EquivariantMap, elements: list[Any]) -> float:
    """How far the layer is from the convolution claimed, its kernels from steerable, or its bias from invariant."""
    convolution, twin = map_.convolution, generic_twin(module)
    assert convolution is not None
    with _in_float64():
        # in eval mode it keeps a kernel, which is another's now
        twin.train().eval()
    layer: Any = twin
    windows = zip(convolution.reach, convolution.stride, strict=True)
    x = generic_input(2, layer.in_type.size, *(reach + stride + 2 for reach, stride in windows))
    with _in_float64():
        kernel, bias = convolution.kernel.expand(layer)
    y = layer(sys.modules["e2cnn.nn"].GeometricTensor(x, layer.in_type)).tensor
    errors = [float((convolution.apply(x, kernel, bias) - y).norm() / y.norm())]
    errors += [_steerability_error(*block, module.basisexpansion.points, map_.group, elements) for block in _blocks(module)]
    if bias is not None:
        errors.append(float(lie_derivative(bias[:, None], Representation.trivial(map_.group), map_.rep_out).norm()))
    if not map_.interpolation and convolution.groups == 1:
        matrix = convolution.as_matrix(kernel)
        errors.append(float(lie_derivative(matrix, map_.rep_in, map_.rep_out).norm() / matrix.norm()))
    return float(torch.tensor(errors).max())


def _steerability_error(rep_in: Any, rep_out: Any, block: Any, points: Any, group: Group, elements: list[Any]) -> float:
    """max over g of |K(g x) - rho_out(g) K(x) rho_in(g)^-1| / |K|, K being formulas, and of what is sampled from K."""
    mask = block._mask.numpy().astype(bool)

    def sampled(at: Any) -> Float[Tensor, "n d_out d_in points"]:
        return torch.tensor(block.basis.sample_masked(at, mask=mask)).double().permute(2, 0, 1, 3)

    own, kernels = sampled(points), block.sampled_basis.detach().double().cpu()
    scale = ((kernels * own).sum((1, 2, 3)) / own.square().sum((1, 2, 3)))[:, None, None, None]
    errors = [float((kernels - scale * own).norm())]
    for matrix, into, out in zip(group.finite.numpy(), _action(rep_in, elements), _action(rep_out, elements), strict=True):
        turned = torch.einsum("ao,noip,ij->najp", out, own, torch.linalg.inv(into))
        errors.append(float((scale * (sampled(matrix @ points) - turned)).norm()))
    return max(errors) / float(kernels.norm())


adapter = E2cnnAdapter()
