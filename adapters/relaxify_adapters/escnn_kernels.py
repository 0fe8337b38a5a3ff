"""How escnn's layers make their kernels: expanded from weights, on a basis that is sampled from steerable functions."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relaxify.grids.kernels import Convolution, Kernel
from relaxify.grids.taps import Equivariants, acts_exactly, fitted, interpolation_error
from relaxify_adapters.escnn_groups import Fibre


@dataclass(frozen=True)
class SteerableKernel(Kernel):
    """How escnn's layers make their kernels; `cache` is the buffer that holds one in eval mode."""

    cache: str
    parameter: str = "weights"

    def expand(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        return type(layer).expand_parameters(layer)

    def of(self, layer: Any, parameter: Tensor) -> Tensor:
        own = layer._parameters["weights"]
        try:
            layer._parameters["weights"] = parameter
            return self.expand(layer)[0]
        finally:
            layer._parameters["weights"] = own

    def tensor(self, value: Any) -> Tensor:
        return value.tensor

    def wrap(self, layer: Any, tensor: Tensor, value: Any) -> Any:
        return type(value)(tensor, layer.out_type, coords=value.coords if self.cache == "matrix" else None)

    def cached(self) -> tuple[str, ...]:
        return (self.cache, "expanded_bias")

    @torch.no_grad()
    def refresh(self, layer: Any) -> None:
        if layer.training:
            return
        for name, value in zip(self.cached(), self.expand(layer), strict=True):
            if value is not None:
                layer.register_buffer(name, value)


def convolution_of(module: Any) -> Convolution:
    """How a layer convolves; of a linear layer, a convolution without axes."""
    if not hasattr(module, "kernel_size"):
        return Convolution((), kernel=SteerableKernel("matrix"))
    return Convolution.from_torch(
        (module.kernel_size,) * module.d,
        kernel=SteerableKernel("filter"),
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        padding_mode=getattr(module, "padding_mode", "zeros"),
        groups=module.groups,
        transposed=hasattr(module, "output_padding"),
        output_padding=getattr(module, "output_padding", 0),
    )


def blocks_of(module: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(input representation, output representation, module that expands the kernels between the two)."""
    expansion = module.basisexpansion
    inputs = {rep.name: rep for rep in expansion._in_reprs}
    outputs = {rep.name: rep for rep in expansion._out_reprs}
    for pair in expansion._representations_pairs:
        yield inputs[pair[0]], outputs[pair[1]], getattr(expansion, f"block_expansion_{expansion._escape_pair(pair)}")


def tap_action(module: Any, fibre: Fibre, size: tuple[int, ...]) -> tuple[Tensor, float]:
    """How the group acts on the taps, and the interpolation's error."""
    grid, lie = fibre.grid(size), len(fibre.group.generators)
    if acts_exactly(fibre.group.generators, fibre.matrices, size):
        return grid, 0.0
    known = [_equivariants(rep_in, rep_out, block, fibre) for rep_in, rep_out, block in blocks_of(module)]
    grid = fitted(grid, known, lie)
    return grid, interpolation_error(grid, known, lie)


def _equivariants(rep_in: Any, rep_out: Any, block: Any, fibre: Fibre) -> Equivariants:
    kernels = block.sampled_basis.detach().to("cpu", torch.float64)
    return Equivariants(kernels, fibre.action(rep_in), fibre.action(rep_out))


def steerability_error(rep_in: Any, rep_out: Any, block: Any, module: Any, elements: Iterable[Any]) -> float:
    """max over g of |K(g x) - rho_out(g) K(x) rho_in(g)^-1| / |K| over the kernels of one block, at the taps moved by g.

    The kernels are formulas, so nothing is interpolated.
    """
    actions = [(g, *(torch.tensor(rep(g)).double() for rep in (rep_in, rep_out))) for g in elements]
    if not hasattr(module, "kernel_size"):
        kernels = block.sampled_basis[..., 0]
        errors = [torch.einsum("ao,koi->kai", out, kernels) - kernels @ into for _, into, out in actions]
        return max(float(error.norm() / kernels.norm()) for error in errors)
    own = torch.tensor(module.basisexpansion.points).double()
    basis, action = _in_double(block.basis), module.in_type.gspace.basespace_action
    # the layer scales each kernel, and has it as it was computed in float32 at its own taps
    coarse, held = block.basis.sample(own.float())[:, block._mask].double(), block.sampled_basis.movedim(-1, 0)
    scale = ((held * coarse).sum((0, 2, 3)) / coarse.square().sum((0, 2, 3)))[:, None, None]
    here, rounding = basis.sample(own)[:, block._mask] * scale, (held - coarse * scale).norm()
    errors = []
    for g, into, out in actions:
        there = basis.sample(own @ torch.tensor(action(g)).double().mT)[:, block._mask] * scale
        errors.append(there - torch.einsum("ao,pkoi,ij->pkaj", out, here, torch.linalg.inv(into)))
    return max(float((error.norm() + rounding) / held.norm()) for error in errors)


def _in_double(basis: Any) -> Any:
    """A copy in float64. torch's own walk compares modules, which these cannot be while one is in float64 and one is not."""
    basis = copy.deepcopy(basis)
    parts = [basis]
    while parts:
        part = parts.pop()
        parts += part._modules.values()
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer.double() if buffer is not None and buffer.is_floating_point() else buffer
    return basis
