"""Group convolutions on images in plain torch: filters that are turned and permuted (GrouPy, Cohen and Welling 2016)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import Entry, Inputs, unchanged

Images = Float[Tensor, "batch channel size size"]


class Lifting(nn.Module):
    """Z2 -> P4: one filter, turned by quarters."""

    def __init__(self, width_in: int, width_out: int, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, size, size) / (size * width_in**0.5))

    def forward(self, x: Images) -> Float[Tensor, "batch channel 4 size size"]:
        turned = torch.stack([torch.rot90(self.weight, k, (-2, -1)) for k in range(4)], dim=1)
        return F.conv2d(x, turned.flatten(0, 1), padding=1).unflatten(1, (-1, 4))


class GroupConvolution(nn.Module):
    """P4 -> P4: turned by quarters, and the orientations of its input permuted."""

    def __init__(self, width_in: int, width_out: int, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, 4, size, size) / (2 * size * width_in**0.5))
        self.bias = nn.Parameter(torch.randn(width_out))

    def forward(self, x: Float[Tensor, "batch channel 4 size size"]) -> Float[Tensor, "batch channel 4 size size"]:
        turned = [torch.rot90(self.weight.roll(k, 2), k, (-2, -1)) for k in range(4)]
        kernel = torch.stack(turned, dim=1).flatten(0, 1).flatten(1, 2)
        y = F.conv2d(x.flatten(1, 2), kernel, padding=1).unflatten(1, (-1, 4))
        return y + self.bias[:, None, None, None]


class P4CNN(nn.Module):
    """Images to a label."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.lift, self.conv = Lifting(1, width), GroupConvolution(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Images) -> Float[Tensor, "batch class"]:
        x = torch.tanh(self.conv(torch.relu(self.lift(x))))
        return self.head(x.amax(2).mean((-2, -1)))
