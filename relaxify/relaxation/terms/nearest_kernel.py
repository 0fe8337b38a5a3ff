"""Fold for convolutions: the kernel nearest to theta * K among those that the layer's own weights can express.

A layer's kernel E(w) is linear in its weights, so w = argmin |E(w) - theta K|^2 is least squares, or, weighted with the
second moment C of the patches, argmin tr((E(w) - theta K) C (E(w) - theta K)^T). Solved in float64 without forming E: by
iterations, or, weighted, where C makes them slow, by normal equations if E is a table of blocks.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor, nn

from relaxify.modules.hanging import probe
from relaxify.relaxation.terms.field_gram import field_problems, pivoted_cholesky
from relaxify.relaxation.terms.kernel_fields import Linear, kernel_fields, kinds_of
from relaxify.sites import EquivariantMap

# of the gradient where it starts, what is left where it is as small as float64 allows
_FLAT = 1e-10
_MOST_STEPS = 5


def nearest_parameter(
    layer: nn.Module,
    map_: EquivariantMap,
    matrix: Float[Tensor, "c_out group_in"],
    moment: Float[Tensor, "n n"] | None = None,
) -> tuple[Float[Tensor, "_"], Float[Tensor, "c_out group_in"]]:
    """The parameter whose kernel is nearest to `matrix`, flat, and that kernel as a matrix, in float64 on the CPU.

    With a moment: nearest on patches of this moment, from the unweighted solution on, so that it is never further there.
    """
    convolution = map_.convolution
    assert convolution is not None
    twin, target = probe(layer), matrix.detach().to("cpu", torch.float64)
    shape = twin.get_parameter(convolution.kernel.parameter).shape

    def expand(parameter: Tensor) -> Tensor:
        return convolution.as_matrix(convolution.kernel.of(twin, parameter.reshape(shape)))

    def on_patches(parameter: Tensor) -> Tensor:
        return convolution.blocks(expand(parameter))

    wanted = convolution.blocks(target)
    found = nearest_coefficients(shape.numel(), expand, target, map_, on_patches, wanted, moment)
    return found, expand(found)


def nearest_coefficients(
    size: int,
    expand: Linear,
    target: Float[Tensor, "..."],
    map_: EquivariantMap,
    on_rows: Linear,
    wanted: Float[Tensor, "n_out n_in"],
    moment: Float[Tensor, "n n"] | None = None,
) -> Float[Tensor, " coefficients"]:
    """argmin |expand(c) - target|; or, with a moment C, of tr(D C D^T) for D = on_rows(c) - wanted, the whole matrices."""
    found = _least_squares(expand, target, torch.zeros(size, dtype=torch.float64))
    if moment is not None:
        root = _root(moment)
        found, is_flat = _by_fields(on_rows, map_, wanted, root @ root.mT, found)
        if not is_flat:
            found = _least_squares(lambda c: on_rows(c) @ root, wanted @ root, found)
    return found


def _by_fields(
    linear: Linear, map_: EquivariantMap, target: Tensor, moment: Float[Tensor, "n n"], start: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " p"], bool]:
    """argmin_p tr((linear(p) - target) C (linear(p) - target)^T) by normal equations, and whether its gradient vanishes.

    The start, and no, if the map is no table of blocks. Each step corrects the rounding errors of the one before.
    """
    transposed = _transposed(linear, start)
    fields = kernel_fields(linear, transposed, len(start), kinds_of(map_.rep_out), kinds_of(map_.rep_in))
    problems = None if fields is None else field_problems(fields, moment)
    if problems is None:
        return start, False
    found, slope = start, (target - linear(start)) @ moment
    steepness = first = float(transposed(target @ moment).norm())
    for _ in range(_MOST_STEPS):
        nearer = found.clone()
        for problem in problems:
            problem.add_step(slope, nearer)
        slope = (target - linear(nearer)) @ moment
        left = float(transposed(slope).norm())
        if left < steepness:
            found = nearer
        if left <= _FLAT * first or left > steepness / 2:
            break
        steepness = left
    return found, min(left, steepness) <= 1e-8 * first


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


def _root(moment: Tensor) -> Float[Tensor, "n rank"]:
    """R with R R^T = C, up to what rounding in the precision that C was summed in made of it, negative squares included."""
    c = moment.detach().to("cpu", torch.float64)
    factor, order = pivoted_cholesky((c + c.mT) / 2, torch.finfo(moment.dtype).eps)
    return factor.mT[order.argsort()]
