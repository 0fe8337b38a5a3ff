"""Peak memory of a training step, in tensors: what the allocator was asked for, not what it keeps for later."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Step

# TorchScript compiles in the second and third
WARM_UP = 4


def peak(make: Callable[[], Step], device: torch.device) -> float:
    """MiB held at most in one step, by model, gradients, optimiser and activations."""
    # what libraries keep from their first use on is not the step's
    make()()
    before = held()
    step = make()
    for _ in range(WARM_UP):
        step()
    level = highest = held() - before
    if device.type == "cuda":
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (level + torch.cuda.max_memory_allocated() - start) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    for change in changes(profiled):
        level += change
        highest = max(highest, level)
    return highest / 2**20


def held() -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [value for value in gc.get_objects() if type(value) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [value for value in tensors if value.layout == torch.strided]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def changes(profiled: profile) -> Iterator[int]:
    """Bytes allocated and, less than 0, given back, in order."""
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        yield event.nbytes()
