"""Group-equivariant CNNs in plain torch: convolutions with filters that are turned, flipped, stacked, or made of a basis."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify import MovePixels
from zoo.entry import Entry, Inputs
from zoo.images import GroupNet

Element = tuple[int, int]
ELEMENTS: list[Element] = list(itertools.product((0, 1), range(4)))
"""Of the square: a flip or none, then quarter turns."""


def times(a: Element, b: Element) -> Element:
    """First b, then a: a turn that passes a flip goes the other way."""
    (flip_a, turns_a), (flip_b, turns_b) = a, b
    return flip_a ^ flip_b, (turns_a + (-turns_b if flip_a else turns_b)) % 4


def moved(g: Element, pixels: Tensor) -> Tensor:
    """Pixels on the last two axes, flipped and turned."""
    flip, turns = g
    return (pixels.flip(-1) if flip else pixels).rot90(turns, (-2, -1))


def lifting_index(size: int) -> Int[Tensor, "8 taps"]:
    """For each element, and each tap of its filter, the tap of the stored filter."""
    taps = torch.arange(size * size).view(size, size)
    return torch.stack([moved(g, taps).flatten() for g in ELEMENTS])


def group_index(size: int) -> Int[Tensor, "8 orientation_taps"]:
    """The same for filters over eight orientations, which the elements permute."""
    taps = torch.arange(8 * size * size).view(8, size, size)
    filters = []
    for g in ELEMENTS:
        before = torch.empty_like(taps)
        for h, own in zip(ELEMENTS, taps, strict=True):
            before[ELEMENTS.index(times(g, h))] = moved(g, own)
        filters.append(before.flatten())
    return torch.stack(filters)


class IndexedConv(nn.Module):
    """GrouPy's way: the filters of all elements are taken out of the stored ones by one table of indices."""

    def __init__(self, n_in: int, n_out: int, *, lifts: bool = False, size: int = 3) -> None:
        super().__init__()
        orientations = 1 if lifts else 8
        self.weight = nn.Parameter(torch.randn(n_out, n_in, orientations, size, size) / size / (n_in * orientations) ** 0.5)
        self.bias = nn.Parameter(torch.randn(n_out))
        self.register_buffer("index", lifting_index(size) if lifts else group_index(size))

    def forward(self, x: Float[Tensor, "batch n_in orientation height width"]) -> Float[Tensor, "batch n_out 8 h w"]:
        n_out, n_in, orientations, *size = self.weight.shape
        filters = self.weight.flatten(2)[:, :, self.index].transpose(1, 2)
        kernel = filters.reshape(n_out * 8, n_in * orientations, *size)
        y = F.conv2d(x.flatten(1, 2), kernel, padding=size[0] // 2).unflatten(1, (n_out, 8))
        return y + self.bias[:, None, None, None]


class SquareNet(nn.Module):
    """p4m: images to a number each, with batch norms over orientations and pixels, and pooling over both."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.lift = IndexedConv(1, width, lifts=True)
        self.layers = nn.ModuleList(IndexedConv(width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for _ in range(2))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 2"]:
        h = F.relu(self.lift(x[:, :, None]))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.relu(norm(layer(F.avg_pool3d(h, (1, 2, 2)) if h.shape[-1] == 8 else h)))
        return self.head(h.amax(2).mean((2, 3)))


class BasisConv(nn.Module):
    """Kernels that are coefficients of a basis (Weiler, Cesa 2019, as e2cnn's R2Conv expands them), here of rings."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(n_out, n_in, 3) / n_in**0.5)
        far = torch.tensor([[2, 1, 2], [1, 0, 1], [2, 1, 2]])
        self.register_buffer("basis", torch.stack([(far == ring) / (far == ring).sum() for ring in range(3)]))

    def forward(self, x: Float[Tensor, "batch n_in h w"]) -> Float[Tensor, "batch n_out h w"]:
        return F.conv2d(x, torch.einsum("oib,bhw->oihw", self.weights, self.basis.to(self.weights)), padding=1)


class BasisNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.head = BasisConv(1, width), BasisConv(width, width), nn.Linear(width, 2)

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 2"]:
        return self.head(self.second(F.silu(self.first(x))).square().mean((2, 3)))


def move_pixels(g: Tensor, inputs: Inputs) -> Inputs:
    moved_inputs = MovePixels()(g, inputs)
    assert isinstance(moved_inputs, tuple)
    return moved_inputs


def images() -> Inputs:
    return (torch.randn(6, 1, 8, 8),)


WELLING = "Cohen, Welling 2016, arXiv 1602.07576"

ENTRIES = (
    Entry(
        name="Group convolutions, p4",
        source=WELLING,
        group="C(4)",
        make=GroupNet,
        inputs=images,
        expected=frozenset({"lift.weight", "conv.weight"}),
        invariant=frozenset({"head"}),
        input_action=move_pixels,
    ),
    Entry(
        name="Group convolutions, p4m",
        source=WELLING,
        group="D(4)",
        make=SquareNet,
        inputs=images,
        expected=frozenset({"lift.weight", "layers.0.weight", "layers.1.weight"}),
        invariant=frozenset({"head"}),
        input_action=move_pixels,
    ),
    Entry(
        name="Kernels of a basis",
        source="Weiler, Cesa 2019, arXiv 1911.08251",
        group="D(4)",
        make=BasisNet,
        inputs=images,
        expected=frozenset({"first.weights", "second.weights"}),
        invariant=frozenset({"head"}),
        input_action=move_pixels,
    ),
)
