"""One training: by the protocol's optimiser, from its start to the accuracy that the protocol reports."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lconv_evidence.arms import ARMS, multiply_adds
from benchmarks.lconv_evidence.overlaps import overlaps
from benchmarks.lconv_evidence.setting import Protocol, Setting, machine
from relaxify.lconv import LConv
from relaxify_examples.lconv.data import Split
from relaxify_examples.lconv.models import parameters


def train(arm: str, seed: int, setting: Setting, data: Split, learning_rate: float) -> dict[str, Any]:
    """Accuracies on the test images, what the model costs, and what an L-conv's generators became."""
    torch.manual_seed(seed)
    shape = (data.train_x.shape[1], data.train_x.shape[2], data.train_x.shape[3])
    model = ARMS[setting.protocol][arm](shape)
    if setting.protocol == "reference":
        as_in_keras(model)
    start = time.process_time()
    accuracies = _accuracies(model, seed, setting, data, learning_rate)
    seconds = time.process_time() - start
    return {
        "accuracy": max(accuracies) if setting.protocol == "reference" else accuracies[-1],
        "last": accuracies[-1],
        "learning_rate": learning_rate,
        "parameters": parameters(model),
        "multiply_adds": multiply_adds(model, shape),
        "seconds": round(seconds, 3),
        "machine": machine(),
        **overlaps(model, setting, data, seed),
    }


def _accuracies(model: nn.Module, seed: int, setting: Setting, data: Split, learning_rate: float) -> list[float]:
    """After each epoch; by the fair protocol after the last one only, as no other is looked at."""
    # the order of batches does not depend on what a model drew for its weights
    order = torch.Generator().manual_seed(seed)
    steps = setting.epochs * math.ceil(len(data.train_x) / setting.batch_size)
    optimizer, schedule = _optimizer(model, setting.protocol, learning_rate, steps)
    found = []
    for epoch in range(setting.epochs):
        for batch in torch.randperm(len(data.train_x), generator=order).split(setting.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.train_x[batch]), data.train_y[batch]).backward()
            optimizer.step()
            schedule.step()
        if setting.protocol == "reference" or epoch == setting.epochs - 1:
            found.append(_accuracy(model, data.test_x, data.test_y))
    return found


def _optimizer(
    model: nn.Module, protocol: Protocol, learning_rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam whose rate falls by a cosine; or RMSprop with Keras's constants, which is what its `compile` takes."""
    if protocol == "fair":
        adam = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        return adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    rms = torch.optim.RMSprop(model.parameters(), learning_rate, alpha=0.9, eps=1e-7)
    return rms, torch.optim.lr_scheduler.ConstantLR(rms, factor=1.0)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    right = sum(int((model(part).argmax(1) == truth).sum()) for part, truth in zip(x.split(200), y.split(200), strict=True))
    return right / len(x)


@torch.no_grad()
def as_in_keras(model: nn.Module) -> None:
    """Glorot's start, as the reference code has it: uniform for its library's layers, normal for its own."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, LConv) and module.identity_weight is not None:
            generators = module.generators
            std = math.sqrt(2 / ((generators.count + 1) * (module.in_channels + module.out_channels)))
            module.weight.normal_(0, std)
            module.identity_weight.normal_(0, std)
            for matrices in (*generators.parameters(), *generators.buffers()):
                count, rows, columns = matrices.shape
                # Keras takes the first axis, that of the generators, for one of a kernel's
                matrices.normal_(0, math.sqrt(2 / (count * (rows + columns))))
