"""What is known of FSDP2: which parameters are sharded, and how a model is copied out of it, whole and without its hooks.

`fully_shard` turns parameters into DTensors, replaces each module's class by a subclass that refuses to be copied, and keeps
its state next to the module's own attributes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

_HOOKS = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_state_dict_hooks": (),
    "_state_dict_pre_hooks": (),
    "_load_state_dict_pre_hooks": (),
    "_load_state_dict_post_hooks": (),
}


def is_dtensor(tensor: Tensor) -> bool:
    """Whether FSDP2 holds this parameter, in shards."""
    # such tensors exist only where torch.distributed is there and set up
    return dist.is_available() and dist.is_initialized() and hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A parameter as one tensor, gathered from all processes if it is sharded.

    Each process has its own gradient by the whole tensor: backward hands the mean of them to the shards, as FSDP2 does with
    the gradients of the forward pass.
    """
    if not is_dtensor(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(tensor, DTensor)
    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)


def whole_layer(layer: nn.Module) -> nn.Module:
    """The layer, or, if its parameters are sharded, one like it with them gathered: for reading only.

    Every process takes part.
    """
    own = dict(layer.named_parameters(recurse=False))
    if not any(map(is_dtensor, own.values())):
        return layer
    twin: nn.Module = object.__new__(type(layer))
    vars(twin).update(vars(layer), _parameters={name: nn.Parameter(whole(own[name]).detach()) for name in own})
    return twin


def sharded_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that FSDP2 was applied to."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def gather(model: nn.Module, memo: dict[int, Any]) -> None:
    """Prepare `copy.deepcopy(model, memo)`: what cannot be copied as it is gets its copy here.

    What `memo` already holds a stand-in for is not gathered. Every process takes part.
    """
    terms = {id(part) for module in model.modules() if id(module) in memo for part in module.parameters()}
    for parameter in model.parameters():
        if is_dtensor(parameter) and id(parameter) not in terms:
            memo[id(parameter)] = nn.Parameter(whole(parameter).detach().clone(), parameter.requires_grad)
    sharded = sharded_modules(model)
    for module in sharded:
        # as FSDP2 builds them: the subclass, FSDPModule, the original class
        memo[id(module)] = object.__new__(type(module).__mro__[2])
    for module in sharded:
        vars(memo[id(module)]).update(copy.deepcopy(_own_attributes(module), memo))


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    """What the module had before it was sharded."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

    other = {STATE_KEY, REGISTRY_KEY, "_is_fsdp_managed_module", "_fsdp_use_orig_params"}
    own = {name: value for name, value in vars(module).items() if name not in other}
    for name, flags in _HOOKS.items():
        foreign = [key for key, hook in own[name].items() if str(hook.__module__).startswith("torch.distributed")]
        for table in (name, *flags):
            own[table] = type(own[table])((key, value) for key, value in own[table].items() if key not in foreign)
    return own
