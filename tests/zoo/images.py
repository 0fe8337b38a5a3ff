"""Networks of images that commute with quarter turns, written plainly, and one fault of one line behind a layer of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.faults import Behind, Function


def quarter_turns(kernel: Tensor) -> Tensor:
    """The mean of a kernel over its quarter turns."""
    return torch.stack([kernel.rot90(k, (-2, -1)) for k in range(4)]).mean(0)


class SymmetricConv(nn.Conv2d):
    """A convolution whose kernel looks the same after a quarter turn: maps of scalars to maps of scalars."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, quarter_turns(self.weight), self.bias, self.stride, self.padding)


class SymmetricNet(nn.Module):
    """A classifier of images: convolutions with symmetric kernels, windows that cover even sizes, a mean over all pixels."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.first, self.second = SymmetricConv(1, channels, 3, padding=1), SymmetricConv(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.first(x))))
        return self.head(F.silu(self.second(x)).mean((2, 3)))


class Lifting(nn.Module):
    """An image to fields with four orientations: convolutions with the four turns of each kernel."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3) / 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.stack([self.weight.rot90(-k, (-2, -1)) for k in range(4)], dim=1)
        return F.conv2d(x, turned.flatten(0, 1), padding=1)


class GroupConv(nn.Module):
    """Fields to fields: a turn of the kernel goes with a shift of the orientations that it reads."""

    def __init__(self, n_in: int, n_out: int, sign: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 4, 3, 3) / 6)
        self.bias = nn.Parameter(torch.randn(n_out))
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.stack([self.weight.rot90(-k, (-2, -1)).roll(self.sign * k, 2) for k in range(4)], dim=1)
        return F.conv2d(x, turned.flatten(2, 3).flatten(0, 1), self.bias.repeat_interleave(4), padding=1)


class OrientationPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 4)).amax(2)


class GroupNet(nn.Module):
    """A group-equivariant CNN of the quarter turns (Cohen & Welling 2016), with fields of four orientations."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.lift, self.conv = Lifting(1, 3), GroupConv(3, 4, sign)
        self.pool, self.over_orientations = nn.AvgPool2d(2), OrientationPool()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.lift(x)))
        x = self.over_orientations(F.relu(self.conv(x)))
        return self.head(x.mean((2, 3)))


class FlattenNet(SymmetricNet):
    """The head has weights of its own for every pixel."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__(channels)
        self.hidden = nn.Linear(16 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.first(x))))
        return self.head(F.relu(self.hidden(self.second(x).flatten(1))))


class SegmentationNet(nn.Module):
    """Maps out of an image: a stride and a skip, on a size that both windows cover evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = SymmetricConv(1, 4, 3, stride=2, padding=1), SymmetricConv(4, 2, 3, padding=1)
        self.skip = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = F.relu(self.down(x))
        return self.up(F.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=True)) + self.skip(x)


SOUND: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "symmetric kernels": (SymmetricNet, 8),
    "group convolutions": (GroupNet, 8),
    "segmentation": (SegmentationNet, 9),
}
"""Models, and the size of the images that they commute with."""


@dataclass(frozen=True)
class Planted:
    """A model of images that breaks at a call of `op` in the module at `where`, for a cause of this kind."""

    make: Callable[[], nn.Module]
    where: str
    op: str
    kind: str
    size: int = 8
    training: bool = False


def behind(make: Callable[[], nn.Module], layer: str, function: Function, op: str, kind: str, size: int = 8) -> Planted:
    def model() -> nn.Module:
        net = make()
        setattr(net, layer, Behind(getattr(net, layer), function))
        return net

    return Planted(model, f"{layer}.fault", op, kind, size)


def instead(make: Callable[[], nn.Module], layer: str, other: Callable[[], nn.Module], op: str, kind: str) -> Planted:
    def model() -> nn.Module:
        net = make()
        setattr(net, layer, other())
        return net

    return Planted(model, layer, op, kind)


def learned_position(x: Tensor) -> Tensor:
    return x + torch.randn(x.shape[-3:], generator=torch.Generator().manual_seed(0)).to(x)


def coordinates(x: Tensor) -> Tensor:
    y = torch.linspace(-1, 1, x.shape[-2]).to(x)[:, None].expand(x.shape[-2:])
    return x * y


def even_kernel(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(x.shape[1], 1, 2, 2).to(x), padding="same", groups=x.shape[1])


def strided(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(x.shape[1], 1, 3, 3).to(x), stride=2, padding=1, groups=x.shape[1])


IMAGE_FAULTS = {
    "flatten before a linear layer": Planted(FlattenNet, "hidden", "linear", "flatten"),
    "learned positions": behind(SymmetricNet, "first", learned_position, "add", "position"),
    "coordinates": behind(SymmetricNet, "second", coordinates, "mul", "position"),
    "even kernel": behind(SymmetricNet, "first", even_kernel, "conv2d", "resampling"),
    "stride on even sizes": behind(SymmetricNet, "first", strided, "conv2d", "resampling"),
    "one-sided padding": behind(SymmetricNet, "first", lambda x: F.pad(x, (1, 0, 1, 0)), "pad", "padding"),
    "padding of one axis": behind(SymmetricNet, "first", lambda x: F.pad(x, (1, 0)), "pad", "padding"),
    "overlapping windows": instead(SymmetricNet, "pool", lambda: nn.MaxPool2d(3, 2, 1), "max_pool2d", "resampling"),
    "windows on odd sizes": Planted(SymmetricNet, "pool", "max_pool2d", "resampling", size=9),
    "every other pixel": behind(SymmetricNet, "first", lambda x: x[..., ::2, ::2], "__getitem__", "selection"),
    "rolled": behind(SymmetricNet, "second", lambda x: x * x.roll(1, -1), "roll", "selection"),
    "free kernel": instead(SymmetricNet, "second", lambda: nn.Conv2d(6, 6, 3, padding=1), "conv2d", "kernel"),
    "orientations mixed": behind(
        GroupNet, "lift", lambda x: F.conv2d(x, torch.randn(12, 12, 1, 1).to(x)), "conv2d", "kernel"
    ),
    "orientations shifted the wrong way": Planted(lambda: GroupNet(sign=-1), "conv", "conv2d", "kernel"),
    "dropout of pixels": Planted(
        behind(SymmetricNet, "second", lambda x: F.dropout(x, 0.3), "dropout", "dropout").make,
        "second.fault",
        "dropout",
        "dropout",
        training=True,
    ),
    "stride on even sizes, segmentation": Planted(SegmentationNet, "down", "conv2d", "resampling", size=8),
}
