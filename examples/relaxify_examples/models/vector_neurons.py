"""Vector Neuron layers: networks on lists of 3D vectors that commute with rotations of space.

After Deng et al., "Vector Neurons: A General Framework for SO(3)-Equivariant Networks" (ICCV 2021, arXiv 2104.12229).
A feature is a list of C vectors, `x[batch, C, 3, *samples]`; a rotation R acts on the axis of size 3. Class and
attribute names follow the implementation the authors published, so that checkpoints of either load in the other.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Keeps quotients of lengths finite. It only ever enters functions of inner products, so it costs no equivariance.
EPS = 1e-6


def mix_channels(linear: nn.Linear, x: Float[Tensor, "batch c_in 3 *samples"]) -> Float[Tensor, "batch c_out 3 *samples"]:
    """Apply a bias-free linear map to the channels and leave the vectors alone: y_o = sum_c W_oc x_c (VN-Linear).

    Commutes with every linear map on the vector axis, hence with rotations. Channels and the last axis trade places
    for the call, so `linear` sees the vectors on axis 2 when there are samples, and on axis 1 when there are none.
    """
    mixed: Tensor = linear(x.transpose(1, -1))
    return mixed.transpose(1, -1)


def leaky_relu_along(
    x: Float[Tensor, "batch channels 3 *samples"],
    direction: Float[Tensor, "batch directions 3 *samples"],
    negative_slope: float,
) -> Float[Tensor, "batch channels 3 *samples"]:
    """Shorten, in each vector, the component that points against its direction (VN-LeakyReLU).

    y = x - (1 - negative_slope) min(<x, k>, 0) k / (|k|^2 + EPS), with one direction k a channel, or one for all.
    """
    against = (x * direction).sum(dim=2, keepdim=True).clamp(max=0)
    squared_length = direction.square().sum(dim=2, keepdim=True)
    return x - (1 - negative_slope) * against / (squared_length + EPS) * direction


class VNLinear(nn.Module):
    """Mix channels with a bias-free linear map: y_o = sum_c W_oc x_c.

    >>> VNLinear(4, 8)(torch.randn(2, 4, 3, 10)).shape
    torch.Size([2, 8, 3, 10])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.map_to_feat = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Float[Tensor, "batch c_in 3 *samples"]) -> Float[Tensor, "batch c_out 3 *samples"]:
        return mix_channels(self.map_to_feat, x)


class VNBatchNorm(nn.Module):
    """Batch-normalise the lengths of the vectors and keep their directions: y = x BN(|x|) / |x|.

    `dim` is the number of axes of the input: 3 for [B, C, 3], 4 for [B, C, 3, N], 5 for [B, C, 3, N, K].

    >>> VNBatchNorm(4, dim=5)(torch.randn(2, 4, 3, 10, 5)).shape
    torch.Size([2, 4, 3, 10, 5])
    """

    def __init__(self, num_features: int, dim: int) -> None:
        super().__init__()
        if dim not in (3, 4, 5):
            raise ValueError(f"VNBatchNorm works on inputs of 3, 4 or 5 axes, not dim={dim}")
        self.dim = dim
        self.bn = nn.BatchNorm2d(num_features) if dim == 5 else nn.BatchNorm1d(num_features)

    def forward(self, x: Float[Tensor, "batch channels 3 *samples"]) -> Float[Tensor, "batch channels 3 *samples"]:
        length: Tensor = torch.linalg.vector_norm(x, dim=2) + EPS
        normalised: Tensor = self.bn(length)
        return x * (normalised / length).unsqueeze(2)


class VNLeakyReLU(nn.Module):
    """A leaky ReLU along directions k = U x that are learned from the same input; see `leaky_relu_along`.

    With `share_nonlinearity` all channels share one direction.

    >>> VNLeakyReLU(4)(torch.randn(2, 4, 3, 10)).shape
    torch.Size([2, 4, 3, 10])
    """

    def __init__(self, in_channels: int, share_nonlinearity: bool = False, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.map_to_dir = nn.Linear(in_channels, 1 if share_nonlinearity else in_channels, bias=False)
        self.negative_slope = negative_slope

    def forward(self, x: Float[Tensor, "batch channels 3 *samples"]) -> Float[Tensor, "batch channels 3 *samples"]:
        return leaky_relu_along(x, mix_channels(self.map_to_dir, x), self.negative_slope)


class VNLinearLeakyReLU(nn.Module):
    """Linear map, batch norm and leaky ReLU: q = BN(W x), k = U x, y = the leaky ReLU of q along k.

    Both maps read the layer's input, unlike in `VNLinear` followed by `VNLeakyReLU`.

    >>> VNLinearLeakyReLU(4, 8, dim=4)(torch.randn(2, 4, 3, 10)).shape
    torch.Size([2, 8, 3, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 5,
        share_nonlinearity: bool = False,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.negative_slope = negative_slope
        self.map_to_feat = nn.Linear(in_channels, out_channels, bias=False)
        self.batchnorm = VNBatchNorm(out_channels, dim=dim)
        self.map_to_dir = nn.Linear(in_channels, 1 if share_nonlinearity else out_channels, bias=False)

    def forward(self, x: Float[Tensor, "batch c_in 3 *samples"]) -> Float[Tensor, "batch c_out 3 *samples"]:
        q: Tensor = self.batchnorm(mix_channels(self.map_to_feat, x))
        return leaky_relu_along(q, mix_channels(self.map_to_dir, x), self.negative_slope)


class VNMaxPool(nn.Module):
    """In each channel keep the sample of the last axis that goes furthest along its direction: argmax_n <x_n, U x_n>.

    `map_to_dir` feeds an argmax alone, so it never receives a gradient.

    >>> VNMaxPool(4)(torch.randn(2, 4, 3, 10, 5)).shape
    torch.Size([2, 4, 3, 10])
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.map_to_dir = nn.Linear(in_channels, in_channels, bias=False)

    def forward(self, x: Float[Tensor, "batch channels 3 *samples n"]) -> Float[Tensor, "batch channels 3 *samples"]:
        alignment = (x * mix_channels(self.map_to_dir, x)).sum(dim=2, keepdim=True)
        furthest = alignment.argmax(dim=-1, keepdim=True)
        return torch.take_along_dim(x, furthest, dim=-1).squeeze(-1)


def mean_pool(x: Float[Tensor, "*axes n"], dim: int = -1, keepdim: bool = False) -> Float[Tensor, "*pooled"]:
    """Average over the samples of the last axis.

    >>> mean_pool(torch.ones(2, 4, 3, 10)).shape
    torch.Size([2, 4, 3])
    """
    return x.mean(dim=dim, keepdim=keepdim)


def make_pool(pooling: str, channels: int) -> Callable[[Tensor], Tensor]:
    """`mean_pool` for "mean", a new `VNMaxPool(channels)` for "max"; any other name is a ValueError.

    >>> make_pool("max", 4)
    VNMaxPool(
      (map_to_dir): Linear(in_features=4, out_features=4, bias=False)
    )
    """
    if pooling == "mean":
        return mean_pool
    if pooling == "max":
        return VNMaxPool(channels)
    raise ValueError(f"pooling is 'mean' or 'max', not {pooling!r}")


class VNStdFeature(nn.Module):
    """Invariant features: the vectors' coordinates in a frame that turns with them (the paper's invariant layer).

    Equivariant layers compute three vectors T = (t_1, t_2, t_3) from x; y_cj = <x_c, t_j> is the same in every pose.
    With `normalize_frame` two vectors are learned, made orthonormal, and completed by their cross product.

    Returns y, and T with the vectors' coordinates on axis 1 and j on axis 2.

    >>> y, frame = VNStdFeature(8, dim=4)(torch.randn(2, 8, 3, 10))
    >>> y.shape, frame.shape
    (torch.Size([2, 8, 3, 10]), torch.Size([2, 3, 3, 10]))
    """

    def __init__(
        self,
        in_channels: int,
        dim: int = 4,
        normalize_frame: bool = False,
        share_nonlinearity: bool = False,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.normalize_frame = normalize_frame
        half, quarter = in_channels // 2, in_channels // 4
        self.vn1 = VNLinearLeakyReLU(in_channels, half, dim, share_nonlinearity, negative_slope)
        self.vn2 = VNLinearLeakyReLU(half, quarter, dim, share_nonlinearity, negative_slope)
        self.vn_lin = nn.Linear(quarter, 2 if normalize_frame else 3, bias=False)

    def forward(
        self, x: Float[Tensor, "batch channels 3 *samples"]
    ) -> tuple[Float[Tensor, "batch channels 3 *samples"], Float[Tensor, "batch 3 3 *samples"]]:
        vectors = mix_channels(self.vn_lin, self.vn2(self.vn1(x)))
        if self.normalize_frame:
            vectors = orthonormal_frame(vectors)
        frame = vectors.transpose(1, 2)
        return torch.einsum("bci...,bij...->bcj...", x, frame), frame


def orthonormal_frame(pair: Float[Tensor, "batch 2 3 *samples"]) -> Float[Tensor, "batch 3 3 *samples"]:
    """Gram-Schmidt on two vectors, and their cross product as the third.

    The cross product follows rotations but not reflections: the frame is SO(3)- and not O(3)-equivariant.

    >>> orthonormal_frame(torch.tensor([[[2.0, 0.0, 0.0], [1.0, 3.0, 0.0]]])).round()
    tensor([[[1., 0., 0.],
             [0., 1., 0.],
             [0., 0., 1.]]])
    """
    first = unit(pair[:, 0])
    second = unit(pair[:, 1] - (pair[:, 1] * first).sum(dim=1, keepdim=True) * first)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=1)], dim=1)


def unit(v: Float[Tensor, "batch 3 *samples"]) -> Float[Tensor, "batch 3 *samples"]:
    """v / (|v| + EPS).

    >>> unit(torch.tensor([[0.0, 0.0, 0.0]]))
    tensor([[0., 0., 0.]])
    """
    length: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True) + EPS
    return v / length


def nearest_neighbours(x: Float[Tensor, "batch channels 3 n"], k: int) -> Int[Tensor, "batch n k"]:
    """Indices of the k points nearest to each point, itself among them, by distance over all channels.

    >>> nearest_neighbours(torch.tensor([0.0, 1.0, 3.0]).expand(1, 1, 3, 3), k=2)
    tensor([[[0, 1],
             [1, 0],
             [2, 1]]])
    """
    points = x.detach().flatten(1, 2)
    # |p_i - p_j|^2 less |p_i|^2, which is the same for all candidates j of point i.
    closeness = 2 * points.mT @ points - points.square().sum(dim=1, keepdim=True)
    return closeness.topk(k, dim=-1).indices


def edge_features(x: Float[Tensor, "batch channels 3 n"], k: int, cross: bool = False) -> Float[Tensor, "batch c 3 n k"]:
    """For each point i and neighbour j the vectors (x_j - x_i, x_i), and x_j x x_i with `cross`, stacked as channels.

    The graph is that of `nearest_neighbours`; n must be at least k.

    >>> edge_features(torch.randn(2, 4, 3, 10), k=5).shape
    torch.Size([2, 8, 3, 10, 5])
    """
    index = nearest_neighbours(x, k)
    neighbour = torch.take_along_dim(x, index.flatten(1)[:, None, None], dim=-1)
    neighbour = torch.unflatten(neighbour, -1, (-1, k))
    centre = x.unsqueeze(-1).expand_as(neighbour)
    features = [neighbour - centre, centre]
    if cross:
        features.append(torch.linalg.cross(neighbour, centre, dim=2))
    return torch.cat(features, dim=1)
