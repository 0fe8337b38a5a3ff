"""Five models such as users bring, each written anew and small: what a user of its library would write, and no more."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedPoints(nn.Module):
    """e3nn: irreps of positions through linear layers with e3nn's Gate between them; vectors out, under O(3)."""

    def __init__(self) -> None:
        from e3nn import nn as enn
        from e3nn import o3

        super().__init__()
        self.gate = enn.Gate("6x0e", [torch.tanh], "4x0e", [torch.sigmoid], "4x1o")
        self.first = o3.Linear("1x0e+1x1o", self.gate.irreps_in)
        self.last = o3.Linear(self.gate.irreps_out, "1x1o")

    def forward(self, positions: Tensor) -> Tensor:
        centred = positions - positions.mean(0)
        features = torch.cat([centred.norm(dim=1, keepdim=True), centred], dim=1)
        return self.last(self.gate(self.first(features)))


class VNLinear(nn.Module):
    """Vector Neurons' linear layer, as in a user's own file: [clouds, channels, 3, points]."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.map_to_feat = nn.Linear(into, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.map_to_feat(x.transpose(1, -1)).transpose(1, -1)


class VectorNeurons(nn.Module):
    """Vector Neurons: classes of clouds of points, invariant under SO(3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frame = VNLinear(1, 6), VNLinear(6, 4), VNLinear(4, 3)
        self.head = nn.Linear(12, 3)

    def forward(self, points: Tensor) -> Tensor:
        v = self.first(points.unsqueeze(1))
        v = self.second(v / (1 + v.norm(dim=2, keepdim=True)))
        products = torch.einsum("bcin,bdin->bcd", v, self.frame(v)) / points.shape[-1]
        return self.head(products.flatten(1))


class EightTurns(nn.Module):
    """escnn: images under C(8), regular fields, pooled over the group and over pixels."""

    def __init__(self) -> None:
        from escnn import gspaces
        from escnn import nn as enn

        super().__init__()
        plane = gspaces.rot2dOnR2(8)
        self.image, regular = (enn.FieldType(plane, [rep]) for rep in (plane.trivial_repr, plane.regular_repr))
        self.body = enn.SequentialModule(
            enn.R2Conv(self.image, regular, 3, bias=False),
            enn.ReLU(regular),
            enn.R2Conv(regular, regular, 3),
            enn.GroupPooling(regular),
        )

    def forward(self, images: Tensor) -> Tensor:
        from escnn import nn as enn

        return self.body(enn.GeometricTensor(images, self.image)).tensor.mean((2, 3))


class Painn(nn.Module):
    """After PaiNN: scalars and vectors of atoms, bare nn.Linear on the channels of vectors, messages along all edges."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.filters = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.u, self.v = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.readout = nn.Linear(width, 1, bias=False)

    def forward(self, positions: Tensor) -> Tensor:
        apart = positions[:, None] - positions
        distance = (apart.square().sum(-1, keepdim=True) + 1e-2).sqrt()
        scalar, radial = (self.filters(distance) / distance.square()).chunk(2, -1)
        vectors = torch.einsum("ijc,ijx->ixc", radial, apart / distance)
        mixed = self.v(vectors)
        gate = self.update(torch.cat([scalar.sum(1), mixed.square().sum(1)], dim=-1))
        return self.readout(self.u(vectors) * gate.unsqueeze(1)).squeeze(-1)


class Cnn(nn.Sequential):
    """An ordinary CNN, to be symmetrised under C(4)."""

    def __init__(self) -> None:
        conv = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        super().__init__(*conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def positions() -> Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def clouds() -> Tensor:
    return torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))
