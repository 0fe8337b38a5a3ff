"""A steerable CNN for images, in escnn's own style: its classes do not change when an image is rotated or reflected.

After Weiler and Cesa 2019 (arXiv 1911.08251): steerable convolutions between fields of several types, batch norm,
antialiased pooling, and at the end pooling over the group and over the plane.
"""

import torch
from escnn import gspaces
from escnn import nn as enn
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def fields(gspace: gspaces.GSpace2D, regular: int) -> enn.FieldType:
    """Regular fields, half as many invariant ones, and, with reflections, as many that only reflections change."""
    reps = [gspace.regular_repr] * regular + [gspace.trivial_repr] * (regular // 2)
    if gspace.flips_order:
        reps += [gspace.quotient_repr((None, gspace.rotations_order))] * (regular // 2)
    return enn.FieldType(gspace, reps)


def block(into: enn.FieldType, out: enn.FieldType, size: int) -> list[enn.EquivariantModule]:
    """Convolution, batch norm, ReLU."""
    return [
        enn.R2Conv(into, out, size, padding=size // 2, bias=False),
        enn.InnerBatchNorm(out),
        enn.ReLU(out, inplace=True),
    ]


class SteerableCNN(nn.Module):
    """Logits of `num_classes` classes for images [B, 1, H, W], with H = W odd so that pooling keeps the middle.

    Equivariant under C(rotations), or D(rotations) with `flips`. `width` is the number of regular fields.

    >>> SteerableCNN(width=2)(torch.randn(3, 1, 17, 17)).shape
    torch.Size([3, 10])
    """

    def __init__(self, num_classes: int = 10, *, rotations: int = 8, flips: bool = False, width: int = 8) -> None:
        super().__init__()
        gspace = gspaces.flipRot2dOnR2(rotations) if flips else gspaces.rot2dOnR2(rotations)
        self.input_type = enn.FieldType(gspace, [gspace.trivial_repr])
        one, two, three = (fields(gspace, n) for n in (width, 2 * width, 2 * width))
        pooled = enn.GroupPooling(three)
        self.body = enn.SequentialModule(
            *block(self.input_type, one, 5),
            *block(one, two, 5),
            enn.PointwiseAvgPoolAntialiased2D(two, sigma=0.66, stride=2, padding=2),
            *block(two, three, 3),
            *block(three, three, 3),
            pooled,
        )
        self.head = nn.Sequential(
            nn.Linear(pooled.out_type.size, 64), nn.BatchNorm1d(64), nn.ELU(), nn.Linear(64, num_classes)
        )

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch classes"]:
        features: Tensor = self.body(self.input_type(images)).tensor
        return self.head(features.mean((-2, -1)))


def rotated_digits(count: int, size: int = 17, seed: int = 0) -> tuple[Float[Tensor, "count 1 size size"], Tensor]:
    """scikit-learn's digits, enlarged, each turned by an angle of its own, and their labels."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    digits, labels = load_digits(return_X_y=True)
    chosen = torch.randperm(len(digits), generator=generator)[:count]
    images = torch.from_numpy(digits).float()[chosen].reshape(-1, 1, 8, 8) / 16
    angle = 2 * torch.pi * torch.rand(len(images), generator=generator)
    c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([c, -s, zero], 1), torch.stack([s, c, zero], 1)], 1)
    # a border keeps corners inside of the image
    grid = F.affine_grid(1.4 * turn, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False), torch.from_numpy(labels)[chosen]
