"""VN-DGCNN, a rotation-invariant classifier of point clouds: edge convolutions over graphs rebuilt at every layer.

After Deng et al. 2021 (arXiv 2104.12229). At the default width its state dict has the keys and shapes of the
implementation the authors published (2,899,830 parameters with 40 classes).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify_examples.models.vector_neurons import VNLinearLeakyReLU, VNStdFeature, edge_features, make_pool


class VNDGCNN(nn.Module):
    """Logits of `num_classes` classes for clouds [B, 3, N] of any N >= n_knn.

    They do not change when a cloud is rotated or reflected. `width` scales every layer (64: the published size). In
    training mode the batch must hold at least two clouds, for the batch norms of the global features.

    >>> VNDGCNN(10, n_knn=5, width=12)(torch.randn(2, 3, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 40, *, n_knn: int = 20, pooling: str = "mean", width: int = 64) -> None:
        super().__init__()
        self.n_knn = n_knn
        c1, c2, c4, c16 = (multiple * width // 3 for multiple in (1, 2, 4, 16))
        self.conv1 = VNLinearLeakyReLU(2, c1)
        self.conv2 = VNLinearLeakyReLU(2 * c1, c1)
        self.conv3 = VNLinearLeakyReLU(2 * c1, c2)
        self.conv4 = VNLinearLeakyReLU(2 * c2, c4)
        self.conv5 = VNLinearLeakyReLU(c4 + c2 + 2 * c1, c16, dim=4, share_nonlinearity=True)
        self.std_feature = VNStdFeature(2 * c16, dim=4, normalize_frame=False)
        self.linear1 = nn.Linear(2 * 2 * 3 * c16, 8 * width)
        self.bn1 = nn.BatchNorm1d(8 * width)
        self.dp1 = nn.Dropout(p=0.5)
        self.linear2 = nn.Linear(8 * width, 4 * width)
        self.bn2 = nn.BatchNorm1d(4 * width)
        self.dp2 = nn.Dropout(p=0.5)
        self.linear3 = nn.Linear(4 * width, num_classes)
        self.pool1 = make_pool(pooling, c1)
        self.pool2 = make_pool(pooling, c1)
        self.pool3 = make_pool(pooling, c2)
        self.pool4 = make_pool(pooling, c4)

    def invariant_features(self, points: Float[Tensor, "batch 3 n"]) -> Float[Tensor, "batch features n"]:
        """Per-point invariants; each edge convolution finds its neighbours in the output of the one before."""
        x1 = self.pool1(self.conv1(edge_features(points.unsqueeze(1), self.n_knn)))
        x2 = self.pool2(self.conv2(edge_features(x1, self.n_knn)))
        x3 = self.pool3(self.conv3(edge_features(x2, self.n_knn)))
        x4 = self.pool4(self.conv4(edge_features(x3, self.n_knn)))
        x: Tensor = self.conv5(torch.cat((x1, x2, x3, x4), dim=1))
        x = torch.cat((x, x.mean(dim=-1, keepdim=True).expand_as(x)), dim=1)
        invariant: Tensor = self.std_feature(x)[0]
        return invariant.flatten(1, 2)

    def forward(self, points: Float[Tensor, "batch 3 n"]) -> Float[Tensor, "batch classes"]:
        features = self.invariant_features(points)
        x = torch.cat((features.amax(dim=-1), features.mean(dim=-1)), dim=1)
        x = self.dp1(F.leaky_relu(self.bn1(self.linear1(x)), negative_slope=0.2))
        x = self.dp2(F.leaky_relu(self.bn2(self.linear2(x)), negative_slope=0.2))
        logits: Tensor = self.linear3(x)
        return logits
