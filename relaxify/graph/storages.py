"""What tensors are beneath their entries: storage, version, expanded axes, what torch.func has wrapped them in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._C import _functorch as functorch
from torch.utils import _pytree as pytree


def expanded_axes(tensor: Tensor) -> tuple[int, ...]:
    """The axes along which a tensor has the same entries, because it was expanded."""
    if tensor.layout is not torch.strided:
        return ()
    return tuple(axis for axis, step in enumerate(tensor.stride()) if step == 0 and tensor.shape[axis] > 1)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in the containers of a value."""
    # asked twice for every operation: plain containers need no search for what they are
    if isinstance(value, Tensor):
        return [value]
    if type(value) in (tuple, list):
        return [tensor for item in value for tensor in tensors_in(item)]
    if type(value) is dict:
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, fx.node.base_types) or value is None:
        return []
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def version(tensor: Tensor) -> int:
    """How often its storage was written to in place."""
    try:
        return tensor._version
    except RuntimeError:
        # inference tensors have none
        return 0


def storage(tensor: Tensor) -> int:
    """Where its entries are."""
    return _layers(tensor)[-1].untyped_storage().data_ptr()


def plain(tensor: Tensor) -> Tensor | None:
    """A sparse tensor as a dense one, whose norm can be taken; nested and quantised ones are not looked at."""
    if tensor.layout is torch.strided:
        return None if tensor.is_nested or tensor.is_quantized else tensor
    return None if tensor.is_nested else tensor.to_dense()


def is_mapped(tensor: Tensor) -> bool:
    """Whether torch.func.vmap maps over it."""
    return any(map(functorch.is_batchedtensor, _layers(tensor)))


def unwrapped(tensor: Tensor) -> Tensor:
    """Its values without what torch.func's transforms wrapped it in, the axes that vmap maps over first.

    For use where these transforms are disabled.
    """
    layers = _layers(tensor)
    values = layers[-1]
    # from the innermost on, whose axis is counted among those of the values
    mapped = [functorch.maybe_get_bdim(layer) for layer in reversed(layers[:-1]) if functorch.is_batchedtensor(layer)]
    for count, axis in enumerate(mapped):
        values = values.movedim(axis + count, 0)
    return values


def _layers(tensor: Tensor) -> list[Tensor]:
    """A tensor, and what it wraps within the transformations of torch.func."""
    layers = [tensor]
    while functorch.is_functorch_wrapped_tensor(layers[-1]):
        layers.append(functorch.get_unwrapped(layers[-1]))
    return layers
