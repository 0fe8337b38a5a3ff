"""escnn: R2Conv, R2ConvTransposed and Linear over C_n, D_n, SO(2), O(2) and their subgroups; exact types only.

A term is an unconstrained kernel, added to the kernel that the layer expands from its weights.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.convolutions import Convolution
from relaxify.grids import (
    Equivariants,
    acts_exactly,
    fitted,
    interpolation_error,
    kernel_representation,
)
from relaxify.groups import Group
from relaxify.representations import Representation, lie_derivative
from relaxify.sites import EquivariantMap, Features, Rejected, Site
from relaxify_adapters.escnn_groups import Fibre, NotASubgroupError, fibre_of
from relaxify_adapters.proof import generic_input, generic_twin


class EscnnAdapter:
    """Finds escnn's steerable convolutions and linear layers."""

    name = "escnn"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of a convolution or of a linear layer, or why there is none."""
        # a model with one of its layers has loaded the library
        library = sys.modules.get("escnn.nn")
        if library is None or not isinstance(module, library.EquivariantModule):
            return
        kinds = (library.R2Conv, library.R2ConvTransposed, library.Linear)
        if type(module) in kinds:
            yield _claim(path, module, group)
        elif isinstance(module, kinds):
            reason = f"{type(module).__name__} is a subclass, which may compute something else"
            yield Rejected(path, f"escnn.{type(module).__name__}", reason)
        elif isinstance(getattr(module, "weights", None), nn.Parameter):
            yield Rejected(path, f"escnn.{type(module).__name__}", "no such layer of escnn is relaxed")


@dataclass(frozen=True)
class SteerableKernel:
    """How escnn's layers make their kernels, `cache` of which they keep in eval mode."""

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


def _claim(path: str, module: Any, group: Group) -> Site | Rejected:
    op = f"escnn.{type(module).__name__}"
    try:
        fibre = fibre_of(module.in_type.gspace, group)
    except NotASubgroupError as reason:
        return Rejected(path, op, str(reason))
    convolution = _convolution(module)
    map_ = EquivariantMap(
        "escnn",
        op,
        fibre.representation(module.in_type),
        fibre.representation(module.out_type),
        features_in=Features((1,)),
        features_out=Features((1,)),
        convolution=convolution,
    )
    if convolution.size:
        grid, error = _grid(fibre, convolution.size, list(_equivariants(module, fibre)))
        map_ = replace(map_, rep_in=kernel_representation(map_.rep_in, grid), interpolation=error)
    error_of = functools.partial(_error, module, map_, fibre)
    return Site(path, module, map_, error_of, structure=_structure(module, convolution, group))


def _grid(fibre: Fibre, size: tuple[int, ...], known: Sequence[Equivariants]) -> tuple[Tensor, float]:
    """How the group acts on the taps, and the interpolation's error."""
    grid, lie = fibre.grid(size), len(fibre.speeds)
    if acts_exactly(fibre.group.generators, fibre.matrices, size):
        return grid, 0.0
    grid = fitted(grid, known, lie)
    return grid, interpolation_error(grid, known, lie)


def _convolution(module: Any) -> Convolution:
    if not hasattr(module, "kernel_size"):
        return Convolution(SteerableKernel("matrix"), (), (), (), (), output_padding=())
    dims, mode = module.d, getattr(module, "padding_mode", "zeros")
    return Convolution(
        kernel=SteerableKernel("filter"),
        size=(module.kernel_size,) * dims,
        stride=_each(module.stride, dims),
        padding=_each(module.padding, dims),
        dilation=_each(module.dilation, dims),
        padding_mode=mode,
        groups=module.groups,
        transposed=hasattr(module, "output_padding"),
        output_padding=_each(getattr(module, "output_padding", 0), dims),
    )


def _each(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * dims


def _blocks(module: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(input representation, output representation, module that expands the kernels between the two)."""
    expansion = module.basisexpansion
    inputs = {rep.name: rep for rep in expansion._in_reprs}
    outputs = {rep.name: rep for rep in expansion._out_reprs}
    for pair in expansion._representations_pairs:
        yield inputs[pair[0]], outputs[pair[1]], getattr(expansion, f"block_expansion_{expansion._escape_pair(pair)}")


def _equivariants(module: Any, fibre: Fibre) -> Iterator[Equivariants]:
    for rep_in, rep_out, block in _blocks(module):
        kernels = block.sampled_basis.detach().to("cpu", torch.float64)
        yield Equivariants(kernels, fibre.action(rep_in), fibre.action(rep_out))


@torch.no_grad()
def _error(module: Any, map_: EquivariantMap, fibre: Fibre) -> float:
    """How far the layer is from the convolution claimed, or its kernels from steerable, or its bias from invariant.

    Steerable means K(g x) = rho_out(g) K(x) rho_in(g)^-1, which is tested on the kernels' formulas at the taps moved by g:
    nothing is interpolated.
    """
    twin: Any = generic_twin(module).train()
    assert map_.convolution is not None
    kernel, bias = twin.expand_parameters()
    x = generic_input(2, twin.in_type.size, *(2 * size + 5 for size in map_.convolution.size))
    y = twin(twin.in_type(x)).tensor
    errors = [float((map_.convolution.apply(x, kernel, bias) - y).norm() / y.norm())]
    for rep_in, rep_out, block in _blocks(twin):
        errors += [_steerability_error(rep_in, rep_out, block, twin, map_, g) for g in fibre.some_elements()]
        errors += [fibre.turning_error(rep) for rep in (rep_in, rep_out)]
    if bias is not None:
        errors.append(float(lie_derivative(bias[:, None], Representation.trivial(fibre.group), map_.rep_out).norm()))
    return float(torch.tensor(errors).max())


def _steerability_error(rep_in: Any, rep_out: Any, block: Any, module: Any, map_: EquivariantMap, g: Any) -> float:
    """|K(g x) - rho_out(g) K(x) rho_in(g)^-1| / |K| over the kernels of one block."""
    assert map_.convolution is not None
    into, out = torch.tensor(rep_in(g)).double(), torch.tensor(rep_out(g)).double()
    if not map_.convolution.size:
        kernels = block.sampled_basis[..., 0]
        return float((torch.einsum("ao,koi->kai", out, kernels) - kernels @ into).norm() / kernels.norm())
    own = torch.tensor(module.basisexpansion.points).double()
    matrix = torch.tensor(module.in_type.gspace.basespace_action(g)).double()
    basis = _in_double(block.basis)
    here, there = (basis.sample(at)[:, block._mask] for at in (own, own @ matrix.mT))
    # the layer scales each kernel, and has it as it was computed in float32 at its own taps
    coarse, held = block.basis.sample(own.float())[:, block._mask].double(), block.sampled_basis.movedim(-1, 0)
    scale = ((held * coarse).sum((0, 2, 3)) / coarse.square().sum((0, 2, 3)))[:, None, None]
    expected = torch.einsum("ao,pkoi,ij->pkaj", out, here * scale, torch.linalg.inv(into))
    return float(((there * scale - expected).norm() + (held - coarse * scale).norm()) / held.norm())


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


def _structure(module: Any, convolution: Convolution, group: Group) -> Hashable:
    blocks = tuple((id(block), rep_in.name, rep_out.name) for rep_in, rep_out, block in _blocks(module))
    fields = tuple(tuple(rep.name for rep in kind.representations) for kind in (module.in_type, module.out_type))
    return (type(module), type(module).forward, blocks, fields, convolution, group, module.bias is None)


adapter = EscnnAdapter()
