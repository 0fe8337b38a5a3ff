"""The one product that a training step cannot do without, output + x W^T, and how it avoids copies of large activations.

Where the output holds its feature vectors as rows of one matrix, the product is added by the GEMM itself (beta = 1), which
saves a tensor of the output's size and a pass over it, forward and backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from relaxify.sites import Features


def added_rows(
    output: Float[Tensor, "..."],
    rows: Float[Tensor, "*rows n"],
    weight: Float[Tensor, "n_out n"],
    features: Features,
) -> Float[Tensor, "..."]:
    """output + rows @ weight^T as a fresh tensor, where `features` says how output holds its feature vectors.

    >>> added_rows(torch.ones(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(1, 2), Features())
    tensor([[4.],
            [8.]])
    """
    if _is_matrix(output, rows, weight, features):
        matrix = torch.addmm(output.view(-1, weight.shape[0]), rows.reshape(-1, rows.shape[-1]), weight.mT)
        return matrix if output.ndim == 2 and features.axes == (-1,) else matrix.view(output.shape)
    return output + features.restore(F.linear(rows, weight), like=output).to(output.dtype)


def _is_matrix(output: Tensor, rows: Tensor, weight: Tensor, features: Features) -> bool:
    """Whether the output is, in memory, the matrix of its feature vectors, one for each input row and of one precision."""
    # where sizes are symbols, so is this, until it is asked for
    return bool(
        output.is_contiguous()
        and output.dtype == rows.dtype == weight.dtype
        and not torch.is_autocast_enabled(output.device.type)
        and features.positions(output.ndim) == list(range(output.ndim - len(features.axes), output.ndim))
        and weight.numel() > 0
        and output.numel() * rows.shape[-1] == rows.numel() * weight.shape[0]
    )
