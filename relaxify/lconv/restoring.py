"""unlconvify: put the original layers back where L-convs stand for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from relaxify.lconv.conversion import lconvs_of, replaced
from relaxify.lconv.graph_layers import GraphLConv
from relaxify.lconv.layer import LConv, LinearLConv
from relaxify.lconv.operators import Grid, Points, Shifts
from relaxify.lconv.swapping import Origin
from relaxify.modules.checks import check_is_module
from relaxify.modules.copies import copied
from relaxify.modules.normal_tensors import normal_tensors


def unlconvify(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A copy of the model with the original classes and keys back, wherever the generators are still a layer's own.

    L-convs whose freed generators are the same everywhere are convolutions again, with the kernel that they amount to; those
    whose generators have become others stay. ValueError if no layer can be put back.

    >>> from relaxify.lconv import lconvify
    >>> type(unlconvify(lconvify(nn.Sequential(nn.Linear(3, 2))))[0]).__name__
    'Linear'
    """
    check_is_module(model, "unlconvify")
    with normal_tensors():
        model = model if inplace else copied(model)
        originals = {id(layer): _original(layer) for _, layer in lconvs_of(model)}
    replacements = {key: original for key, original in originals.items() if original is not None}
    if not replacements:
        why = "none of its L-convs has kept a layer's generators" if originals else "it holds no L-conv"
        raise ValueError(f"there is nothing to put back in this {type(model).__name__}: {why}; call lconvify first.")
    return replaced(model, replacements)


def _original(layer: nn.Module) -> nn.Module | None:
    """The layer that this L-conv still is, with its trained parameters; None if it has become something else."""
    origin: Any = getattr(layer, "origin", None)
    if not isinstance(origin, Origin):
        return None
    module = origin.module.train(layer.training)
    if isinstance(layer, LConv):
        weight = _kernel(layer)
        if weight is None:
            return None
        module.register_parameter("weight", weight)
        module.register_parameter("bias", layer.bias)
        return module
    if isinstance(layer, GraphLConv) and layer.flow_weight is not None:
        return None
    if isinstance(layer, LinearLConv) and type(layer.generators) is not Points:
        return None
    for name, parameter in layer.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, child in layer.named_children():
        if name in module._modules:
            module._modules[name] = child
    return module


def _kernel(layer: LConv) -> nn.Parameter | None:
    """The convolution's kernel that this layer amounts to, if it is one."""
    generators = layer.generators
    if type(generators) is Shifts:
        return layer.weight
    if type(generators) is not Grid or layer.identity_weight is not None:
        return None
    taps = generators.taps.detach().flatten(2) if generators.space is not None else generators.taps.detach()[..., None]
    if not torch.equal(taps, taps[..., :1].expand_as(taps)):
        return None
    per_tap = torch.einsum("nk,noc->koc", taps[..., 0], layer.weight.detach())
    kernel = generators.stencil.pack(per_tap, layer.groups)
    return nn.Parameter(kernel, requires_grad=layer.weight.requires_grad)
