"""A copy of theta that a compiled backward pass keeps: the compiler would read theta anew, where it has gone since."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# torch has it from 2.7 on
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def held(theta: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A copy that stays as it is in the graph of this forward pass, compiled or not.

    >>> theta = torch.tensor(0.5)
    >>> copy = held(theta)
    >>> theta.zero_(), copy
    (tensor(0.), tensor(0.5000))
    """
    if torch.compiler.is_compiling() and not _is_exporting():
        return _copy(theta)
    return theta.clone()


# an operation that the compiler does not know is one that it does not compute twice
@torch.library.custom_op("relaxify::copy", mutates_args=(), schema="(Tensor theta) -> Tensor")
def _copy(theta: Tensor) -> Tensor:
    return theta.clone()


@_copy.register_fake
def _(theta: Tensor) -> Tensor:
    return torch.empty_like(theta)
