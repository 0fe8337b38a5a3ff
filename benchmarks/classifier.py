"""A narrow classifier of point clouds from the layers of VN-PointNet, small enough to be trained twenty times over."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from relaxify_examples.models.vector_neurons import VNLinear, VNLinearLeakyReLU, edge_features


class NarrowPointNet(nn.Module):
    """Logits of `num_classes` classes for what `neighbourhoods` makes of clouds; the same in every pose.

    VN-PointNet (`models.vn_pointnet`) without its 16-fold wide layers: three Vector Neurons layers, beside whose outputs
    stand their means over the points; coordinates in a learned frame; their maxima and means over the points; dense layers.

    >>> NarrowPointNet(15)(torch.randn(2, 3, 3, 10)).shape
    torch.Size([2, 15])
    """

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.layer1 = VNLinearLeakyReLU(3, width, dim=4, negative_slope=0.0)
        self.layer2 = VNLinearLeakyReLU(2 * width, width, dim=4, negative_slope=0.0)
        self.layer3 = VNLinearLeakyReLU(2 * width, 2 * width, dim=4, negative_slope=0.0)
        self.frame = VNLinear(2 * width, 3)
        self.dense1 = nn.Sequential(nn.Linear(12 * width, 4 * width), nn.BatchNorm1d(4 * width))
        self.dense2 = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.BatchNorm1d(4 * width))
        self.last = nn.Linear(4 * width, num_classes)

    def forward(self, x: Float[Tensor, "batch 3 3 n"]) -> Float[Tensor, "batch classes"]:
        x = self.layer3(_with_mean(self.layer2(_with_mean(self.layer1(x)))))
        invariant = torch.einsum("bcin,bjin->bcjn", x, self.frame(x)).flatten(1, 2)
        pooled = torch.cat([invariant.amax(dim=2), invariant.mean(dim=2)], dim=1)
        logits: Tensor = self.last(relu(self.dense2(relu(self.dense1(pooled)))))
        return logits


def _with_mean(x: Float[Tensor, "batch c 3 n"]) -> Float[Tensor, "batch twice_c 3 n"]:
    return torch.cat([x, x.mean(dim=3, keepdim=True).expand_as(x)], dim=1)


def neighbourhoods(clouds: Float[Tensor, "batch 3 n"], k: int = 6) -> Float[Tensor, "batch 3 3 n"]:
    """Of each point the vector to the mean of its k nearest, itself, and the mean of their cross products with it.

    >>> neighbourhoods(torch.randn(2, 3, 10)).shape
    torch.Size([2, 3, 3, 10])
    """
    return edge_features(clouds.unsqueeze(1), k, cross=True).mean(dim=4)
