"""escnn: convolutions of images and of volumes, and linear layers, over its groups and their subgroups; exact types only.

A term is an unconstrained kernel, added to the kernel that the layer expands from its weights.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution
from relaxify.grids.taps import kernel_representation
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative
from relaxify.modules.hanging import restore_forward
from relaxify.proof import generic_input
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Rejected, Site
from relaxify_adapters.escnn_groups import Fibre, NotASubgroupError, fibre_of
from relaxify_adapters.escnn_kernels import blocks_of, steerability_error, tap_action
from relaxify_adapters.escnn_space import share_groups
from relaxify_adapters.steerable import SteerableKernel, claims, convolution_of

_RELAXED = ("R2Conv", "R2ConvTransposed", "R3Conv", "R3ConvTransposed", "R3IcoConv", "R3IcoConvTransposed", "Linear")

_POINTS = (
    "its kernel is a function of the points' offsets, which differ from edge to edge: there are no taps for an "
    "unconstrained kernel"
)

# up to this interpolation error a penalty can still tell equivariant kernels from others
_TELLING = 0.1

_TOO_COARSE = (
    "its taps are too far apart to tell where {group} moves its kernels (interpolation error {error:.1e}); lower its "
    "dilation or frequencies_cutoff, or name a subgroup that moves taps onto taps"
)

_REASONS = {
    "R2PointConv": _POINTS,
    "R3PointConv": _POINTS,
    "TensorProductModule": "it is quadratic in its input, and a term is linear",
}


class EscnnAdapter:
    """Finds escnn's steerable convolutions and linear layers."""

    name = "escnn"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of a convolution or of a linear layer, or why there is none."""
        if "escnn.nn" in sys.modules:
            share_groups()
        return claims("escnn", _RELAXED, path, module, functools.partial(_claim, path, module, group), _REASONS)


def _claim(path: str, module: Any, group: Group) -> Site | Rejected:
    op = f"escnn.{type(module).__name__}"
    try:
        fibre = fibre_of(module.in_type.gspace, group)
    except NotASubgroupError as reason:
        return Rejected(path, op, str(reason))
    axes = module.d if hasattr(module, "kernel_size") else 0
    convolution = convolution_of(module, axes, SteerableKernel("filter" if axes else "matrix"))
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
        grid, error = tap_action(module, fibre, convolution.size)
        if error > _TELLING:
            return Rejected(path, op, _TOO_COARSE.format(group=group.name, error=error))
        map_ = replace(map_, rep_in=kernel_representation(map_.rep_in, grid), interpolation=error)
    error_of = functools.partial(_error, module, map_, fibre)
    return Site(path, module, map_, error_of, structure=_structure(module, convolution, group))


@torch.no_grad()
def _error(module: Any, map_: EquivariantMap, fibre: Fibre) -> float:
    """How far the layer is from the convolution claimed, or its kernels from steerable, or its bias from invariant."""
    convolution = map_.convolution
    assert convolution is not None
    # of rank one, which tells geometries apart as well, and is made in no time
    sides = module.out_type.size, module.in_type.size // convolution.groups * convolution.taps
    kernel = convolution.as_kernel(torch.outer(*map(generic_input, sides)))
    bias = None if module.bias is None else module.bias_expansion.double() @ generic_input(len(module.bias))
    twin: Any = _with_kernel(module, kernel, bias)
    windows = zip(convolution.reach, convolution.stride, strict=True)
    space = (reach + stride + axis for axis, (reach, stride) in enumerate(windows))
    x = generic_input(2, twin.in_type.size, *space)
    y = twin(twin.in_type(x)).tensor
    errors = [float((convolution.apply(x, kernel, bias) - y).norm() / y.norm())]
    for rep_in, rep_out, block in blocks_of(module):
        errors.append(steerability_error(rep_in, rep_out, block, module, fibre))
        errors += [fibre.turning_error(rep) for rep in (rep_in, rep_out)]
    if bias is not None:
        errors.append(float(lie_derivative(bias[:, None], Representation.trivial(fibre.group), map_.rep_out).norm()))
    return float(torch.tensor(errors).max())


def _with_kernel(module: Any, kernel: Tensor, bias: Tensor | None) -> Any:
    """The layer without parameters and hooks, in training, with this kernel and bias in place of what it expands."""
    bare = copy.copy(module)
    bare.__dict__ |= {**vars(nn.Module()), "expand_parameters": lambda: (kernel, bias)}
    restore_forward(bare)
    return bare


def _structure(module: Any, convolution: Convolution, group: Group) -> Hashable:
    blocks = tuple((id(block), rep_in.name, rep_out.name) for rep_in, rep_out, block in blocks_of(module))
    fields = tuple(tuple(rep.name for rep in kind.representations) for kind in (module.in_type, module.out_type))
    return (type(module), type(module).forward, blocks, fields, convolution, group, module.bias is None)


adapter = EscnnAdapter()
