"""torch's own convolutions, under rotations, reflections and dilations of their pixels: scalar maps in, scalar maps out.

No layer of torch says so; a plan takes them for sites only where nothing but ordinary convolutions is found. The equivariant
part is the layer's own kernel symmetrised, K P, with P the projection onto what every generator leaves as it is: K = K G(g).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids import taps
from relaxify.grids.convolution import CONVOLUTIONS, Geometry
from relaxify.grids.kernels import Convolution, Kernel, symmetrised
from relaxify.groups import Group
from relaxify.intertwiners import intertwiner_basis, lie_derivative
from relaxify.proof import generic_input, generic_twin
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, EvidenceKind, Features, Rejected, Site

RING_WIDTH = 0.6


class TorchConvolutionAdapter:
    """Finds torch's convolutions."""

    name = "torch"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of a convolution whose pixels the group can move, or why there is none."""
        dims = CONVOLUTIONS.get(type(module))
        if dims is None:
            return
        op = f"torch.{type(module).__name__}"
        if reason := _obstacle(module, group, dims):
            yield Rejected(path, op, reason)
        elif group.dim == dims:
            yield _claim(path, module, group, op)


@dataclass(frozen=True, eq=False)
class SymmetrisedKernel(Kernel):
    """K P for a layer whose parameter is K: the taps' values averaged as the group asks.

    P = B^T B, for an orthonormal basis B of the symmetric kernels of one channel.
    """

    basis: Float[Tensor, "kernels taps"]
    parameter: str = "weight"
    _moved: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    @property
    def symmetriser(self) -> Float[Tensor, "kernels taps"]:
        return self.basis

    def expand(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        return self.of(layer, layer.weight), layer.bias

    def of(self, layer: Any, parameter: Tensor) -> Tensor:
        key = (parameter.device, parameter.dtype)
        if key not in self._moved:
            self._moved[key] = (self.basis.mT @ self.basis).to(parameter)
        return symmetrised(parameter, self._moved[key])

    def rest(self, layer: Any) -> Tensor:
        return layer.weight - self.expand(layer)[0]

    @torch.no_grad()
    def symmetrise(self, layer: Any) -> None:
        layer.weight.copy_(self.expand(layer)[0])


def _translates(group: Group, dims: int) -> bool:
    """Whether a group only translates, along this many pixel axes."""
    if group.dim != dims + 1 or len(group.finite):
        return False
    return not bool(group.generators[:, :, :dims].any() or group.generators[:, dims].any())


def _obstacle(module: Any, group: Group, dims: int) -> str | None:
    if _translates(group, dims):
        return f"it commutes with {group.name} whatever its kernel, but for its border: there is nothing to relax"
    if group.dim != dims:
        return None
    if _moves(group, Geometry.of(module).shift):
        return f"padding='same' adds one pixel more on one side than on the other: a shift that {group.name} moves"
    return None


def _moves(group: Group, shift: tuple[float, ...]) -> bool:
    """Whether the group moves a vector, given along the axes of pixels."""
    # as `tap_positions`: the last axis first, y upwards
    vector = torch.tensor(shift, dtype=torch.float64).flip(-1)
    vector[1:] *= -1
    return bool((group.generators @ vector).any()) or not torch.allclose(group.finite @ vector, vector, rtol=0, atol=1e-9)


def _claim(path: str, module: Any, group: Group, op: str) -> Site:
    size = tuple(module.kernel_size)
    grid, kernels, error = _taps(group, size)
    map_ = EquivariantMap(
        "torch",
        op,
        taps.kernel_representation(Representation.trivial(group, module.in_channels), grid),
        Representation.trivial(group, module.out_channels),
        features_in=Features((1,)),
        features_out=Features((1,)),
        convolution=Convolution.of(module, kernel=SymmetrisedKernel(kernels)),
        interpolation=error,
    )
    return Site(path, module, map_, functools.partial(_error, module, map_), EvidenceKind.symmetrised)


@functools.lru_cache(maxsize=64)
def _taps(group: Group, size: tuple[int, ...]) -> tuple[Tensor, Tensor, float]:
    """How the group acts on the taps, an orthonormal basis of the kernels that it leaves alone, and the action's error."""
    grid, still = taps.grid_actions(group.generators, group.finite, size), Representation.trivial(group).actions[0]
    if taps.acts_exactly(group.generators, group.finite, size) or not group.is_orthogonal:
        return grid, intertwiner_basis(grid, still)[:, 0], 0.0
    # rotations between taps leave rings as they are, and are fitted so that they do
    kernels = torch.linalg.qr(_rings(size).mT)[0].mT
    known, lie = [taps.Equivariants(kernels[:, None, None], still, still)], len(group.generators)
    grid = taps.fitted(grid, known, lie)
    return grid, kernels, taps.interpolation_error(grid, known, lie)


def _rings(size: tuple[int, ...]) -> Float[Tensor, "rings taps"]:
    """Gaussian rings of all radii that the taps resolve, on the disc (or ball) that turns within the kernel."""
    radius = taps.tap_positions(size).norm(dim=-1)
    rings = torch.arange((min(size) + 1) // 2, dtype=torch.float64) + (0.0 if min(size) % 2 else 0.5)
    return torch.exp(-(radius - rings[:, None]).square() / (2 * RING_WIDTH**2)) * (radius <= max(min(size) / 2, 0.8))


@torch.no_grad()
def _error(module: Any, map_: EquivariantMap) -> float:
    """How far the layer is from the convolution claimed, and its symmetrised kernel from commuting with the group.

    Where the group permutes pixels the latter is measured on images, of which every step of 1 is a pixel of the output.
    """
    twin: Any = generic_twin(module)
    claimed = map_.convolution
    assert claimed is not None
    sides = (7 if len(claimed.size) == 3 else 13,) * len(claimed.size)
    x = generic_input(
        2, module.in_channels, *(side + d * k for side, d, k in zip(sides, claimed.dilation, claimed.size, strict=True))
    )
    y = twin(x)
    errors = [float((claimed.apply(x, twin.weight, twin.bias) - y).norm() / y.norm())]
    kernel = claimed.kernel.expand(twin)[0]
    matrix = claimed.blocks(claimed.as_matrix(kernel))
    errors.append(float(lie_derivative(matrix, map_.rep_in, map_.rep_out).norm() / matrix.norm()))
    if not map_.interpolation and taps.acts_exactly(map_.group.generators, map_.group.finite, claimed.size):
        errors += [_moving_error(claimed, kernel, module.in_channels, g, sides) for g in map_.group.finite]
    return float(torch.tensor(errors).max())


def _moving_error(
    convolution: Convolution, kernel: Tensor, channels: int, g: Float[Tensor, "axes axes"], sides: tuple[int, ...]
) -> float:
    """|conv(g x) - g conv(x)| / |conv(x)| at stride 1."""
    convolution = replace(convolution, stride=(1,) * len(sides), output_padding=(0,) * len(sides))
    x = generic_input(1, channels, *sides)
    y = convolution.apply(x, kernel)

    def moved(values: Tensor) -> Tensor:
        return (values.flatten(2) @ taps.grid_action(g, tuple(values.shape[2:])).mT).view_as(values)

    return float((convolution.apply(moved(x), kernel) - moved(y)).norm() / y.norm())


adapter = TorchConvolutionAdapter()
