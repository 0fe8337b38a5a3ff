"""A VN-Transformer whose scalars ride along with the vectors (Assaad et al. 2023, arXiv 2206.04176), its maps Parameters.

A feature is [batch, n, channels, 3 + k]: on the last axis a vector and k scalars side by side, on which g acts as g + 1.
Channels are on the axis before it. Each layer applies its Parameter itself, in one of the ways people write that down.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import Entry, along, each, paths

Features = Float[Tensor, "batch n channels c"]


def weight(width_in: int, width_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(width_out, width_in) / width_in**0.5)


class VNLinear(nn.Module):
    """y_oc = sum_i W_oi x_ic."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = weight(width_in, width_out)

    def forward(self, x: Features) -> Features:
        return torch.einsum("...ic,oi->...oc", x, self.weight)


class VNReLU(nn.Module):
    """q = W x, k = U x; from q is taken its component along k where that is negative."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = weight(width, width)
        self.U = weight(width, width)

    def forward(self, x: Features) -> Features:
        q = F.linear(x.mT, self.W).mT
        k = F.normalize(torch.tensordot(self.U, x, dims=([1], [2])).movedim(0, 2), dim=-1)
        return q - (q * k).sum(dim=-1, keepdim=True).clamp(max=0) * k


class VNFeedForward(nn.Module):
    def __init__(self, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.expand = weight(width, expansion * width)
        self.relu = VNReLU(expansion * width)
        self.contract = weight(expansion * width, width)

    def forward(self, x: Features) -> Features:
        return self.contract @ self.relu(self.expand @ x)


class VNLayerNorm(nn.Module):
    """A layer norm of the lengths of the features; their directions stay."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Features) -> Features:
        length = x.norm(dim=-1) + 1e-6
        return x * (self.norm(length) / length).unsqueeze(-1)


class VNAttention(nn.Module):
    """Attention whose weights are softmax(<Q_i, K_j>), the inner product over channels and components."""

    def __init__(self, width: int, heads: int, width_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = VNLinear(width, heads * width_head)
        self.to_k = VNLinear(width, heads * width_head)
        self.to_v = VNLinear(width, heads * width_head)
        self.to_out = VNLinear(heads * width_head, width)

    def forward(self, x: Features) -> Features:
        q, k, v = (
            map_(x).unflatten(2, (self.heads, -1)).transpose(1, 2).flatten(3) for map_ in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(attended.transpose(1, 2).unflatten(-1, (-1, x.shape[-1])).flatten(2, 3))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, width_head: int) -> None:
        super().__init__()
        self.attention = VNAttention(width, heads, width_head)
        self.attention_norm = VNLayerNorm(width)
        self.feed_forward = VNFeedForward(width)
        self.feed_forward_norm = VNLayerNorm(width)

    def forward(self, x: Features) -> Features:
        x = self.attention_norm(x + self.attention(x))
        return self.feed_forward_norm(x + self.feed_forward(x))


class VNTransformer(nn.Module):
    """A vector and k scalars of each point in, as many out."""

    def __init__(self, width: int = 6, depth: int = 2, heads: int = 2, width_head: int = 4) -> None:
        super().__init__()
        self.embed = VNLinear(1, width)
        self.layers = nn.ModuleList(Layer(width, heads, width_head) for _ in range(depth))
        self.head = VNLinear(width, 1)

    def forward(
        self, vectors: Float[Tensor, "batch n 3"], scalars: Float[Tensor, "batch n k"]
    ) -> tuple[Float[Tensor, "batch n 3"], Float[Tensor, "batch n k"]]:
        x = self.embed(torch.cat([vectors, scalars], dim=-1).unsqueeze(-2))
        for layer in self.layers:
            x = layer(x)
        x = self.head(x).squeeze(-2)
        return x[..., :3], x[..., 3:]


ENTRIES = (
    Entry(
        name="VN-Transformer with scalars",
        source="Assaad et al. 2023, arXiv 2206.04176",
        group="O(3)",
        make=VNTransformer,
        inputs=lambda: (torch.randn(2, 11, 3), torch.randn(2, 11, 5)),
        expected=paths(
            "embed.weight",
            "layers.{i}.attention.to_{map}.weight",
            "layers.{i}.feed_forward.{part}",
            "head.weight",
            i=range(2),
            map=("q", "k", "v", "out"),
            part=("expand", "relu.W", "relu.U", "contract"),
        ),
        output=each(along(-1), None),
        notes="On the last axis, of size 8, g acts as g + identity. Maps by einsum, F.linear on .mT, tensordot, and W @ x.",
    ),
)
