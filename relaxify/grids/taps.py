"""How a group of the plane or of space acts on the taps of a kernel, and on kernels: the fibre's action times the grid's.

Rotations by quarter turns and reflections of the axes permute the taps: exact. Other elements move them between taps,
where values have to be interpolated; how far that is from exact is measured on kernels that are known to be equivariant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.representations import Block, Representation


def tap_positions(size: Sequence[int]) -> Float[Tensor, "taps axes"]:
    """Where each tap of a kernel is, around its middle: x along the last axis to the right, y along the one before it, up.

    >>> tap_positions((1, 3))
    tensor([[-1., 0.],
            [ 0., 0.],
            [ 1., 0.]], dtype=torch.float64)
    """
    centre = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    taps = torch.tensor(list(itertools.product(*map(range, size))), dtype=torch.float64).reshape(-1, len(size))
    positions = (taps - centre).flip(-1)
    positions[:, 1:] *= -1
    return positions + 0.0


def grid_action(matrix: Float[Tensor, "axes axes"], size: Sequence[int]) -> Float[Tensor, "taps taps"]:
    """G with (G x)(q) = x(g^-1 q): a permutation where g maps taps to taps, multilinear interpolation elsewhere.

    Taps read from outside of the kernel are zero.

    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    >>> (grid_action(quarter, (3, 3)) @ torch.arange(9.0, dtype=torch.float64)).reshape(3, 3)
    tensor([[2., 5., 8.],
            [1., 4., 7.],
            [0., 3., 6.]], dtype=torch.float64)
    """
    positions = tap_positions(size)
    # rounding would put a tap slightly off the tap that it is moved to
    source = positions @ torch.linalg.inv(matrix).mT
    source = torch.where((source - source.mul(2).round() / 2).abs() < 1e-9, source.mul(2).round() / 2, source)
    return (1 - (source[:, None] - positions).abs()).clamp(min=0).prod(-1)


def grid_derivative(generator: Float[Tensor, "axes axes"], size: Sequence[int]) -> Float[Tensor, "taps taps"]:
    """dG for a Lie generator A: (dG x)(q) = -(A q) . grad x(q), by central differences."""
    positions = tap_positions(size)
    velocity = -positions @ generator.mT
    difference = positions[None] - positions[:, None]
    result = torch.zeros(len(positions), len(positions), dtype=torch.float64)
    for axis in range(positions.shape[1]):
        others = difference.abs().sum(-1) - difference[..., axis].abs() < 0.5
        slope = torch.where(others & (difference[..., axis].abs() - 1).abs().lt(0.5), difference[..., axis] / 2, 0)
        result += velocity[:, axis, None] * slope
    return result


def grid_actions(
    generators: Float[Tensor, "lie axes axes"], finite: Float[Tensor, "fin axes axes"], size: Sequence[int]
) -> Float[Tensor, "actions taps taps"]:
    """How each generator of a group moves the taps: dG for the Lie generators, then G for the finite ones."""
    taps = math.prod(size)
    lie = [grid_derivative(generator, size) for generator in generators]
    moved = [grid_action(matrix, size) for matrix in finite]
    return torch.stack([*lie, *moved]) if lie or moved else torch.zeros(0, taps, taps, dtype=torch.float64)


def acts_exactly(
    generators: Float[Tensor, "lie axes axes"], finite: Float[Tensor, "fin axes axes"], size: Sequence[int]
) -> bool:
    """Whether every generator of a group permutes the taps; Lie generators move all but a single one between taps."""
    positions = tap_positions(size)
    distances = ((positions @ finite.mT)[:, :, None] - positions).norm(dim=-1).amin(-1)
    return (not len(generators) or math.prod(size) == 1) and bool((distances < 1e-6).all())


def kernel_representation(fibre: Representation, grid: Float[Tensor, "actions taps taps"]) -> Representation:
    """The representation on patches: rho(g) (x) G for finite generators, drho(A) (x) 1 + 1 (x) dG for Lie generators.

    The fibre's features are channels, so its blocks have to be channel-major.
    """
    taps, lie = grid.shape[-1], len(fibre.group.generators)
    blocks = tuple(Block(block.name, block.multiplicity, block.dimension * taps) for block in fibre.blocks)
    made: dict[int, Tensor] = {}
    for action in fibre.actions:
        if id(action) not in made:
            made[id(action)] = _product(action, grid, lie)
    return Representation(fibre.group, blocks, tuple(made[id(action)] for action in fibre.actions))


def _product(
    action: Float[Tensor, "actions d d"], grid: Float[Tensor, "actions taps taps"], lie: int
) -> Float[Tensor, "actions n n"]:
    eye, still = (torch.eye(matrices.shape[-1], dtype=torch.float64)[None] for matrices in (action, grid))
    derivatives = torch.kron(action[:lie], still) + torch.kron(eye, grid[:lie])
    moved = torch.einsum("aij,akl->aikjl", action[lie:], grid[lie:]).flatten(3, 4).flatten(1, 2)
    return torch.cat([derivatives, moved])


@dataclass(frozen=True)
class Equivariants:
    """A basis of equivariant kernels between two fibre representations, and how the generators act on both.

    `copies` stand side by side in the fibres.
    """

    kernels: Float[Tensor, "basis d_out d_in taps"]
    action_in: Float[Tensor, "actions d_in d_in"]
    action_out: Float[Tensor, "actions d_out d_out"]
    copies: int = 1

    def sides(self, generator: int, lie: int) -> tuple[Float[Tensor, "rows taps"], Float[Tensor, "rows taps"]]:
        """A and T such that these kernels have L(K) = A G - T, for the action G of one generator on the taps."""
        into, out = self.action_in[generator], self.action_out[generator]
        right = torch.einsum("koip,ij->kojp", self.kernels, into)
        left = torch.einsum("ao,koip->kaip", out, self.kernels)
        if generator < lie:
            return self.kernels.flatten(0, 2), (left - right).flatten(0, 2)
        return right.flatten(0, 2), left.flatten(0, 2)


def fitted(
    grid: Float[Tensor, "actions taps taps"], known: Sequence[Equivariants], lie: int
) -> Float[Tensor, "actions taps taps"]:
    """The actions nearest to `grid` that interpolate best between the taps of kernels known to be equivariant.

    For each generator the least-squares solution G of L(K) = 0 over those kernels that is nearest to the one given.
    """
    actions = []
    for generator, start in enumerate(grid):
        sides = [(pair.copies, *pair.sides(generator, lie)) for pair in known]
        gram = sum((copies * a.mT @ a for copies, a, _ in sides), torch.zeros_like(start))
        cross = sum((copies * a.mT @ (t - a @ start) for copies, a, t in sides), torch.zeros_like(start))
        # functions that hardly reach the taps would be amplified by what they lack
        actions.append(start + torch.linalg.pinv(gram, hermitian=True, rtol=1e-6) @ cross)
    return torch.stack(actions) if actions else grid


def interpolation_error(grid: Float[Tensor, "actions taps taps"], known: Sequence[Equivariants], lie: int) -> float:
    """max |L(K)| / |K| over these kernels' span and over the generators: what an exactly equivariant kernel can score."""
    worst = 0.0
    for pair in known:
        left, singular, _ = torch.linalg.svd(pair.kernels.flatten(1), full_matrices=False)
        keep = singular > 1e-6 * singular.max()
        to_orthonormal = (left[:, keep] / singular[keep]).mT
        for generator, action in enumerate(grid):
            a, t = pair.sides(generator, lie)
            error = to_orthonormal @ (a @ action - t).reshape(len(pair.kernels), -1)
            worst = max(worst, float(torch.linalg.matrix_norm(error, 2)))
    return worst
