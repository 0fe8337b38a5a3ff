"""The networks of LC sec. 4: one or two hidden layers of one kind, and one linear layer that reads all of their outputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relaxify.lconv import LConv, LowRank

FILTERS = 32
# with L_0 = I, as many as a 3 x 3 kernel has taps
GENERATORS = 8
GAIN = 2**0.5

Shape = tuple[int, int, int]


def lconv(
    shape: Shape,
    classes: int,
    layers: int = 1,
    *,
    learnable: bool = True,
    rank: int | None = None,
    count: int = GENERATORS,
    filters: int = FILTERS,
) -> nn.Module:
    """L-convs with `count` low-rank generators, learned or random and frozen."""
    channels, *space = shape
    rank = rank or (16 if layers == 1 else 8)
    hidden = []
    for layer in range(layers):
        generators = LowRank.random(count, tuple(space), rank=rank, learnable=learnable)
        hidden.append(LConv(generators, filters if layer else channels, filters, activation=torch.relu, gain=GAIN))
    return nn.Sequential(*hidden, *_readout(filters, shape, classes))


def random_lconv(shape: Shape, classes: int, layers: int = 1) -> nn.Module:
    """L-convs whose generators stay random: what the form alone can do."""
    return lconv(shape, classes, layers, learnable=False)


def cnn(
    shape: Shape, classes: int, layers: int = 1, *, filters: int = FILTERS, kernel: int = 3, padding: int = 1
) -> nn.Module:
    """Convolutions of as many filters."""
    hidden: list[nn.Module] = []
    for layer in range(layers):
        hidden += [nn.Conv2d(filters if layer else shape[0], filters, kernel, padding=padding), nn.ReLU()]
    lost = layers * (kernel - 1 - 2 * padding)
    return nn.Sequential(*hidden, *_readout(filters, (shape[0], shape[1] - lost, shape[2] - lost), classes))


def wide_cnn(shape: Shape, classes: int, layers: int = 1) -> nn.Module:
    """The CNN of the least filters that has no fewer parameters than the L-conv."""
    target = parameters(lconv(shape, classes, layers))
    filters = FILTERS
    while parameters(cnn(shape, classes, layers, filters=filters)) < target:
        filters += 1
    return cnn(shape, classes, layers, filters=filters)


class LikeLConv(nn.Module):
    """The L-conv's shapes without its sharing of weights: V down to n_L * rank numbers, then Z up to all outputs."""

    def __init__(self, shape: Shape, inputs: int, rank: int, count: int = GENERATORS, filters: int = FILTERS) -> None:
        super().__init__()
        points = shape[1] * shape[2]
        self.outputs = (filters, *shape[1:])
        self.down = nn.Linear(inputs * points, (count + 1) * rank, bias=False)
        self.up = nn.Linear((count + 1) * rank, filters * points)

    def forward(self, h: Tensor) -> Tensor:
        return self.up(self.down(h.flatten(1))).unflatten(1, self.outputs)


def fc_like_lconv(
    shape: Shape,
    classes: int,
    layers: int = 1,
    *,
    rank: int | None = None,
    count: int = GENERATORS,
    filters: int = FILTERS,
) -> nn.Module:
    """Fully connected in the L-conv's manner, with many more parameters."""
    rank = rank or (16 if layers == 1 else 8)
    hidden: list[nn.Module] = []
    for layer in range(layers):
        hidden += [LikeLConv(shape, filters if layer else shape[0], rank, count, filters), nn.ReLU()]
    return nn.Sequential(*hidden, *_readout(filters, shape, classes))


def fc_shallow(shape: Shape, classes: int, layers: int = 1, *, target: int | None = None) -> nn.Module:
    """One hidden layer as wide as the L-conv's number of parameters, or `target`, allows."""
    inputs = shape[0] * shape[1] * shape[2]
    target = target or parameters(lconv(shape, classes, layers))
    width = max(1, round((target - classes) / (inputs + 1 + classes)))
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


Make = Callable[[Shape, int, int], nn.Module]

MODELS: dict[str, Make] = {
    "L-conv": lconv,
    "random L": random_lconv,
    "CNN": cnn,
    "CNN, equal parameters": wide_cnn,
    "FC (~ L-conv)": fc_like_lconv,
    "FC (shallow)": fc_shallow,
}


def parameters(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(p.numel() for p in model.parameters())


def _readout(channels: int, shape: Shape, classes: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * shape[1] * shape[2], classes)]
