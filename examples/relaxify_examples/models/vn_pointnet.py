"""VN-PointNet, a rotation-invariant classifier of point clouds built from Vector Neuron layers.

After Deng et al. 2021 (arXiv 2104.12229). At the default width its state dict has the keys and shapes of the
implementation the authors published (1,972,745 parameters with 40 classes).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify_examples.models.vector_neurons import (
    VNBatchNorm,
    VNLinear,
    VNLinearLeakyReLU,
    VNStdFeature,
    edge_features,
    make_pool,
)


class STNkd(nn.Module):
    """A global descriptor of the cloud, `channels` vectors: what PointNet's feature transform becomes among vectors.

    >>> STNkd(4, width=12)(torch.randn(2, 4, 3, 10)).shape
    torch.Size([2, 4, 3])
    """

    def __init__(self, channels: int, *, pooling: str = "mean", width: int = 64) -> None:
        super().__init__()
        c1, c2, c16, c8, c4 = (multiple * width // 3 for multiple in (1, 2, 16, 8, 4))
        self.conv1 = VNLinearLeakyReLU(channels, c1, dim=4, negative_slope=0.0)
        self.conv2 = VNLinearLeakyReLU(c1, c2, dim=4, negative_slope=0.0)
        self.conv3 = VNLinearLeakyReLU(c2, c16, dim=4, negative_slope=0.0)
        self.fc1 = VNLinearLeakyReLU(c16, c8, dim=3, negative_slope=0.0)
        self.fc2 = VNLinearLeakyReLU(c8, c4, dim=3, negative_slope=0.0)
        self.pool = make_pool(pooling, c16)
        self.fc3 = VNLinear(c4, channels)

    def forward(self, x: Float[Tensor, "batch channels 3 n"]) -> Float[Tensor, "batch channels 3"]:
        x = self.pool(self.conv3(self.conv2(self.conv1(x))))
        out: Tensor = self.fc3(self.fc2(self.fc1(x)))
        return out


class PointNetEncoder(nn.Module):
    """Points to invariant features: equivariant layers, coordinates in a learned frame, and a maximum over points.

    The cross products among its edge features make it invariant to rotations only, not to reflections.

    >>> PointNetEncoder(n_knn=5, width=12)(torch.randn(2, 3, 10)).shape
    torch.Size([2, 384])
    """

    def __init__(self, *, n_knn: int = 20, pooling: str = "mean", width: int = 64) -> None:
        super().__init__()
        self.n_knn = n_knn
        c1, c2, c16 = width // 3, 2 * width // 3, 16 * width // 3
        self.conv_pos = VNLinearLeakyReLU(3, c1, dim=5, negative_slope=0.0)
        self.conv1 = VNLinearLeakyReLU(c1, c1, dim=4, negative_slope=0.0)
        self.conv2 = VNLinearLeakyReLU(2 * c1, c2, dim=4, negative_slope=0.0)
        self.conv3 = VNLinear(c2, c16)
        self.bn3 = VNBatchNorm(c16, dim=4)
        self.std_feature = VNStdFeature(2 * c16, dim=4, normalize_frame=False, negative_slope=0.0)
        self.pool = make_pool(pooling, c1)
        self.fstn = STNkd(c1, pooling=pooling, width=width)

    def forward(self, points: Float[Tensor, "batch 3 n"]) -> Float[Tensor, "batch features"]:
        x = self.pool(self.conv_pos(edge_features(points.unsqueeze(1), self.n_knn, cross=True)))
        x = self.conv1(x)
        x = torch.cat((x, self.fstn(x).unsqueeze(-1).expand_as(x)), dim=1)
        x = self.bn3(self.conv3(self.conv2(x)))
        x = torch.cat((x, x.mean(dim=-1, keepdim=True).expand_as(x)), dim=1)
        invariant, _ = self.std_feature(x)
        pooled: Tensor = invariant.flatten(1, 2).amax(dim=-1)
        return pooled


class VNPointNet(nn.Module):
    """Logits of `num_classes` classes for clouds [B, 3, N] of any N >= n_knn.

    They do not change when a cloud is rotated. `width` scales every layer (64: the published size). In training mode
    the batch must hold at least two clouds, for the batch norms of the global features. The published model returns
    `log_softmax` of these logits.

    >>> VNPointNet(10, n_knn=5, width=12)(torch.randn(2, 3, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 40, *, n_knn: int = 20, pooling: str = "mean", width: int = 64) -> None:
        super().__init__()
        self.feat = PointNetEncoder(n_knn=n_knn, pooling=pooling, width=width)
        self.fc1 = nn.Linear(2 * 3 * (16 * width // 3), 8 * width)
        self.fc2 = nn.Linear(8 * width, 4 * width)
        self.fc3 = nn.Linear(4 * width, num_classes)
        self.dropout = nn.Dropout(p=0.4)
        self.bn1 = nn.BatchNorm1d(8 * width)
        self.bn2 = nn.BatchNorm1d(4 * width)

    def forward(self, points: Float[Tensor, "batch 3 n"]) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.fc1(self.feat(points))))
        x = F.relu(self.bn2(self.dropout(self.fc2(x))))
        logits: Tensor = self.fc3(x)
        return logits
