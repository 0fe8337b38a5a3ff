"""What the adapters' numeric proofs share: a copy of the layer with generic weights, and inputs.

A layer's equivariance is a property of its form, not of its weights' values; weights that start at zero, as some layers' do,
would prove nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.sites import probe


@torch.no_grad()
def generic_twin(module: nn.Module) -> nn.Module:
    """A float64 copy of the layer in eval mode, with random weights, always the same.

    >>> generic_twin(nn.Linear(2, 1)).weight.dtype
    torch.float64
    """
    twin, generator = probe(module), torch.Generator().manual_seed(2)
    for parameter in twin.parameters():
        parameter.normal_(generator=generator)
    return twin


def generic_input(*shape: int) -> Float[Tensor, "..."]:
    """Random numbers in float64, always the same.

    >>> generic_input(2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
