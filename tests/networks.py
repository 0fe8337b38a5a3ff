"""Small real networks of both libraries, and what surgery on them must not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from relaxify import penalty, set_theta
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear, VNLinearLeakyReLU, VNMaxPool

Batch = tuple[Tensor, ...]
Make = Callable[[], tuple[nn.Module, str, Batch]]


class E3nnNet(nn.Module):
    """Two o3.Linears, one with biases, around a tensor product with an attribute whose scalar is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = o3.Linear("4x0e+3x1o", "6x0e+4x1o+2x1e", biases=True)
        self.product = o3.FullyConnectedTensorProduct("6x0e+4x1o+2x1e", "1x0e+1x1o", "4x0e+3x1o+1x2e")
        self.last = o3.Linear("4x0e+3x1o+1x2e", "2x0e+2x1o")

    def forward(self, x: Tensor, attribute: Tensor) -> Tensor:
        return self.last(self.product(self.first(x), attribute))


class VNNet(nn.Module):
    """A feature map with its direction map, batch norm and dropout, a maximum over points, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = VNLinearLeakyReLU(3, 6, dim=4)
        self.dropout = nn.Dropout(0.3)
        self.pool = VNMaxPool(6)
        self.head = VNLinear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.dropout(self.conv(x))))


def e3nn_net() -> tuple[nn.Module, str, Batch]:
    attribute = torch.cat([torch.full((12, 1), 0.7), torch.randn(12, 3)], dim=1)
    return E3nnNet(), "O(3)", (torch.randn(12, 13), attribute)


def vn_net() -> tuple[nn.Module, str, Batch]:
    return VNNet(), "SO(3)", (torch.randn(4, 3, 3, 10),)


def cnn_net() -> tuple[nn.Module, str, Batch]:
    """An ordinary CNN: its terms stand in for the forward of its convolutions."""
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, groups=2, bias=False), nn.ConvTranspose2d(4, 2, 3)]
    first, second, third = layers
    net = nn.Sequential(first, nn.BatchNorm2d(6), nn.ReLU(), second, nn.Dropout(0.3), third)
    return net, "C(4)", (torch.randn(4, 2, 7, 7),)


NETWORKS = pytest.mark.parametrize("make", [e3nn_net, vn_net])
# a CNN is not equivariant before it is relaxed, and so not what it was after
WITH_CNN = pytest.mark.parametrize("make", [e3nn_net, vn_net, cnn_net])


def run(model: nn.Module, batch: Batch) -> Tensor:
    """One forward pass with the same dropout masks every time."""
    torch.manual_seed(1)
    return model(*batch)


def train(model: nn.Module, batch: Batch, steps: int = 3, theta: float = 0.5) -> None:
    """Train a relaxed model on batch -> 1 at constant theta."""
    set_theta(model, theta)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = (model(*batch) - 1).square().mean() + penalty(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def randomise_terms(model: nn.Module) -> None:
    """W and theta as they may be in the middle of training."""
    for term in terms_of(model).values():
        for parameter in term.parameters():
            parameter.normal_()
    set_theta(model, 0.5)


def anatomy(model: nn.Module) -> list[Any]:
    """Equal before and after whatever leaves the model as it was: the same modules, tensors, values, hooks and flags."""
    return [
        (
            path,
            id(module),
            type(module),
            module.training,
            [(key, hook) for key, hook in module._forward_hooks.items()],
            [
                (name, id(t), t._version)
                for name, t in [*module._parameters.items(), *module._buffers.items()]
                if t is not None
            ],
        )
        for path, module in model.named_modules(remove_duplicate=False)
    ]


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the test run's own type checks, as users run the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
