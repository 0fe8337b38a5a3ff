"""Small constructors that the entries are made of: modules from a forward and its parts, maps, norms, inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[], Any]


def net(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module with this forward and these children, parameters, buffers (tensors) and attributes.

    >>> net(lambda self, x: self.mix(x).shape, mix=nn.Linear(3, 2))(torch.ones(3))
    torch.Size([2])
    """
    model: nn.Module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            model.register_buffer(name, part)
        else:
            setattr(model, name, part)
    return model


def mix(channels_in: int, channels_out: int) -> nn.Linear:
    """A map of channels alone, on the last axis."""
    return nn.Linear(channels_in, channels_out, bias=False)


def mlp(channels_in: int, channels_out: int, width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels_in, width), nn.SiLU(), nn.Linear(width, channels_out))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def normal(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Inputs of these shapes, normally distributed."""
    return lambda: tuple(torch.randn(shape) for shape in shapes)


def constant(*values: Any) -> Callable[[], tuple[Any, ...]]:
    """The same inputs every time."""
    return lambda: tuple(value.clone() if isinstance(value, Tensor) else value for value in values)


def linear(channels_in: int = 4, channels_out: int = 4, **more: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(channels_in, channels_out, **{"bias": False, **more})


def made(module: Callable[..., nn.Module], *arguments: Any, **more: Any) -> Callable[[], nn.Module]:
    return lambda: module(*arguments, **more)


def plain(forward: Forward, **parts: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: net(forward, **{name: part() for name, part in parts.items()})


def trained(make: Callable[[], nn.Module], steps: int = 10, points: int = 11) -> Callable[[], nn.Module]:
    """The model after a few steps of Adam towards random targets."""

    def fit() -> nn.Module:
        model, x = make().train(), torch.randn(points, 3)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            output = model(x)
            first_output = output[0] if isinstance(output, tuple) else output
            loss = (first_output - 1).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return model.requires_grad_()

    return fit


def generic_batch_norm(channels: int = 4) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        norm = nn.BatchNorm1d(channels)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.5, 1.5)
        return norm

    return build


def generic_layer_norm(size: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        norm = nn.LayerNorm(size)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(0.5, 1.5)
        return norm

    return build
