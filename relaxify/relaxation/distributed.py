"""Terms in data-parallel training: DistributedDataParallel and FSDP2 (`fully_shard`).

Each process sketches its own share of the batch. What has to be exchanged for the penalty of the whole batch are the means
of squares of CR eq. 5, a few numbers a layer: they add up over processes, and the root is taken after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from relaxify.modules.sharding import sharded_modules


def with_zero_gradients(output: Float[Tensor, "..."], *parameters: Tensor) -> Float[Tensor, "..."]:
    """`output`, with parameters that it does not depend on in its graph, where their gradients are zero.

    DistributedDataParallel waits for a gradient of every parameter; this is one without a computation.
    """
    return _Unused.apply(output, *parameters)  # type: ignore[no-untyped-call]


class _Unused(torch.autograd.Function):
    """The identity on its first argument."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        # not the tensors, whose memory sharded training takes back
        ctx.likes = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


_around: ContextVar[dist.ProcessGroup | None] = ContextVar("processes that train copies of each model", default=None)


@contextmanager
def replicated(processes: dist.ProcessGroup | None) -> Iterator[None]:
    """Within this context models are taken to be inside of DistributedDataParallel among these processes, if any."""
    token = _around.set(processes)
    try:
        yield
    finally:
        _around.reset(token)


def replicas_of(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes that train copies or shards of this model on shares of the batch, or None.

    A model inside of DistributedDataParallel does not know that it is: pass the wrapped one, or see `replicated`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.process_group
    sharded = sharded_modules(model)
    if not sharded:
        return _around.get()
    # parameters are DTensors, which know their mesh, only while they are not gathered for a forward pass
    groups = (module._get_fsdp_state()._fsdp_param_group for module in sharded)  # type: ignore[operator]
    mesh = next(group.mesh_info.mesh for group in groups if group is not None)
    return mesh.get_group() if mesh.ndim == 1 else mesh._flatten().get_group()


def averaged(
    means: Mapping[int, Tensor], counts: Mapping[int, Int[Tensor, ""]], replicas: dist.ProcessGroup
) -> dict[int, Tensor]:
    """Each layer's means over the rows of all processes, which saw `counts[layer]` rows each; in one exchange.

    The value is that of the whole batch on every process. The gradient is this process's share of it times the number of
    processes, because data-parallel training averages gradients.
    """
    weights = torch.stack([count.to(means[layer].device) for layer, count in counts.items()]).to(torch.float64)
    flat = torch.cat(
        [means[layer].detach().double() * weight for layer, weight in zip(counts, weights, strict=True)] + [weights]
    )
    dist.all_reduce(flat, group=replicas)
    totals = flat[-len(counts) :].clamp(min=1)
    result, start = {}, 0
    for layer, weight, total in zip(counts, weights, totals, strict=True):
        own = means[layer]
        value = (flat[start : start + len(own)] / total).to(own.dtype)
        share = (weight / total * dist.get_world_size(replicas)).to(own.dtype)
        result[layer] = value + share * (own - own.detach())
        start += len(own)
    return result


def averaged_moment(moment: Tensor, count: Int[Tensor, ""], replicas: dist.ProcessGroup) -> Float[Tensor, "n n"]:
    """E[x x^T] over the rows of all processes."""
    weight = count.to(moment.device, moment.dtype)
    total = torch.cat([(moment * weight).flatten(), weight[None]])
    dist.all_reduce(total, group=replicas)
    return (total[:-1] / total[-1]).view_as(moment)
