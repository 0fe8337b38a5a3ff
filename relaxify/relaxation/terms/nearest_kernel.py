"""Fold for convolutions: the kernel nearest to theta * K among those that the layer's own weights can express.

A layer's kernel E(w) is linear in its weights, so w = argmin |E(w) - theta K|^2 is least squares, or, weighted with the
second moment C of the patches, argmin tr((E(w) - theta K) C (E(w) - theta K)^T). Solved in float64 without forming E.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution
from relaxify.modules.hanging import probe

Linear = Callable[[Tensor], Tensor]


def nearest_parameter(
    layer: nn.Module,
    convolution: Convolution,
    matrix: Float[Tensor, "c_out group_in"],
    moment: Float[Tensor, "n n"] | None = None,
) -> tuple[Float[Tensor, "_"], Float[Tensor, "c_out group_in"]]:
    """The parameter whose kernel is nearest to `matrix`, flat, and that kernel as a matrix, in float64 on the CPU.

    With a moment: nearest on patches of this moment, from the unweighted solution on, so that it is never further there.
    """
    twin, target = probe(layer), matrix.detach().to("cpu", torch.float64)
    shape = twin.get_parameter(convolution.kernel.parameter).shape

    def expand(parameter: Tensor) -> Tensor:
        return convolution.as_matrix(convolution.kernel.of(twin, parameter.reshape(shape)))

    found = _least_squares(expand, target, torch.zeros(shape.numel(), dtype=torch.float64))
    if moment is not None:
        root = _root(moment.detach().to("cpu", torch.float64))
        found = _least_squares(lambda p: convolution.blocks(expand(p)) @ root, convolution.blocks(target) @ root, found)
    return found, expand(found)


def _least_squares(linear: Linear, target: Tensor, start: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """argmin_p |linear(p) - target|, from a start that it only improves on."""
    transposed = _transposed(linear, start)
    operator = LinearOperator(
        (target.numel(), start.numel()),
        matvec=lambda p: linear(torch.from_numpy(p.reshape(-1))).flatten().numpy(),
        rmatvec=lambda y: transposed(torch.from_numpy(y.reshape(target.shape))).numpy(),
        dtype=np.float64,
    )
    rest = (target - linear(start)).flatten().numpy()
    solution = lsqr(operator, rest, atol=1e-14, btol=1e-14, conlim=1e12, iter_lim=10 * len(start))[0]
    return start + torch.from_numpy(solution)


def _transposed(linear: Linear, like: Float[Tensor, " n"]) -> Linear:
    with torch.enable_grad():
        point = like.clone().requires_grad_()
        value = linear(point)
    return lambda y: torch.autograd.grad(value, point, y, retain_graph=True)[0]


def _root(moment: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    values, vectors = torch.linalg.eigh((moment + moment.mT) / 2)
    return vectors * values.clamp(min=0).sqrt()
