"""Generators with unknowns of their own, such as weights at each pixel: the least broken ones, by LOBPCG on second moments.

In white coordinates z of the first r principal components a generator L is the r x r matrix A with dz/dt = A z + A m, m the
mean. It keeps the second moments iff A + A^T = 0, and the mean iff A m = 0. So the least broken generators have the smallest
|A + A^T|^2 / 4 + |A m|^2 over |A|^2 + |A m|^2, a ratio of two quadratic forms in the unknowns that are applied and never
formed: nothing is d x d. Weights of pixels are taken to be smooth, as far as the data do not say otherwise.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from relaxify.lconv.operators import Generators, Grid, Sparse
from relaxify.lconv.symmetry.white import White

COMPONENTS = 30
CANDIDATES = 6
ITERATIONS = 40

# of the movement: how much weights count as broken that change over the whole image
ROUGHNESS = 10.0

# of the mean movement of an unknown: what no sample moves must not look kept
SMALLEST_MOVEMENT = 1e-4

# waves along each axis, in which the search begins, and how many unknowns are few enough to begin with all
WAVES, FEW = 5, 400

Array = npt.NDArray[np.float64]


@runtime_checkable
class Unknowns(Protocol):
    """A family that is linear in its unknowns."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the unknowns."""

    def matrix(self, theta: Tensor) -> Float[Tensor, "r s"]:
        """A, and A m as its last column."""

    def adjoint(self, matrix: Float[Tensor, "r s"]) -> Tensor:
        """The transpose of `matrix`."""

    def filtered(self, theta: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the roughness, which is zero where it asks nothing of the unknowns."""

    def coarse(self) -> Float[Tensor, "k *shape"] | None:
        """Unknowns in whose span the search begins; None for anywhere."""

    def movement(self) -> float:
        """|A|^2 + |A m|^2, averaged over unknowns of unit length."""

    def family(self, theta: Float[Tensor, "k *shape"]) -> Generators:
        """The generators that these unknowns are."""


def unknowns_of(family: Grid | Sparse, white: White, channels: int) -> Unknowns:
    """Of a family with entries of its own."""
    return Fields(family, white, channels) if isinstance(family, Grid) else Pattern(family, white, channels)


class Fields:
    """Weights of each point's own on a stencil."""

    def __init__(self, grid: Grid, white: White, channels: int) -> None:
        assert grid.space is not None
        self.stencil, self.space = grid.stencil, grid.space
        r, size = len(white.left), math.prod(grid.space)
        self.left = white.left.reshape(r, channels, size)
        right = torch.cat([white.right, white.mean[None]]).reshape(r + 1, channels, *grid.space)
        self.reads = grid.stencil.act(right).flatten(3)
        self.shape = (grid.stencil.count, *grid.space)
        waves = [2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in grid.space]
        curvature = torch.from_numpy(np.asarray(sum(np.ix_(*waves)), dtype=np.float64))
        self.curvature = curvature * (ROUGHNESS / math.prod(self.space))

    def matrix(self, theta: Tensor) -> Float[Tensor, "r s"]:
        moved = torch.einsum("tp,tscp->scp", theta.flatten(1), self.reads)
        return self.left.flatten(1) @ moved.flatten(1).mT

    def adjoint(self, matrix: Float[Tensor, "r s"]) -> Tensor:
        back = (matrix.mT @ self.left.flatten(1)).reshape(-1, *self.left.shape[1:])
        return torch.einsum("scp,tscp->tp", back, self.reads).reshape(self.shape)

    def filtered(self, theta: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        axes = tuple(range(1, theta.dim()))
        waves = scipy.fft.dctn(theta.numpy(), axes=axes, norm="ortho") * response(self.curvature).numpy()
        return torch.from_numpy(scipy.fft.idctn(waves, axes=axes, norm="ortho"))

    def coarse(self) -> Float[Tensor, "k *shape"]:
        waves = torch.zeros(0, *self.shape, dtype=torch.float64)
        chosen = list(itertools.product(range(self.shape[0]), *(range(min(WAVES, n)) for n in self.space)))
        waves = torch.zeros(len(chosen), *self.shape, dtype=torch.float64)
        waves[(torch.arange(len(chosen)), *torch.tensor(chosen).T)] = 1
        axes = tuple(range(2, waves.dim()))
        return torch.from_numpy(scipy.fft.idctn(waves.numpy(), axes=axes, norm="ortho", overwrite_x=True))

    def movement(self) -> float:
        own, reads = self.left.square().sum(0), self.reads.square().sum(1)
        return float(torch.einsum("cp,tcp->", own, reads)) / math.prod(self.shape)

    def family(self, theta: Float[Tensor, "k *shape"]) -> Generators:
        return Grid(theta, self.stencil, space=self.space, learnable=False)


class Pattern:
    """The entries of sparse matrices, such as weights of a graph's edges; of a graph nothing is smooth."""

    def __init__(self, sparse: Sparse, white: White, channels: int) -> None:
        assert sparse.space is not None
        self.space, size = sparse.space, math.prod(sparse.space)
        places = torch.unique(torch.stack([sparse.rows % size, sparse.columns]), dim=1)
        self.rows, self.columns = places
        right = torch.cat([white.right, white.mean[None]])
        self.left = white.left.reshape(-1, channels, size)[..., self.rows]
        self.reads = right.reshape(-1, channels, size)[..., self.columns]
        self.shape = (len(self.rows),)

    def matrix(self, theta: Tensor) -> Float[Tensor, "r s"]:
        return self.left.flatten(1) @ (self.reads * theta).flatten(1).mT

    def adjoint(self, matrix: Float[Tensor, "r s"]) -> Tensor:
        back = (matrix.mT @ self.left.flatten(1)).reshape(self.reads.shape)
        return (back * self.reads).sum((0, 1))

    def filtered(self, theta: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        return theta * response(theta.new_zeros(()))

    def coarse(self) -> Float[Tensor, "k *shape"] | None:
        return torch.eye(len(self.rows), dtype=torch.float64) if len(self.rows) <= FEW else None

    def movement(self) -> float:
        moved = torch.einsum("rce,sce->e", self.left.square(), self.reads.square())
        return float(moved.mean())

    def family(self, theta: Float[Tensor, "k *shape"]) -> Generators:
        size = math.prod(self.space)
        rows = (torch.arange(len(theta))[:, None] * size + self.rows).flatten()
        entries = torch.stack([rows, self.columns.repeat(len(theta))])
        return Sparse(entries, theta.flatten(), len(theta), self.space)


def least_broken(unknowns: Unknowns, count: int = CANDIDATES) -> Float[Tensor, "count *shape"]:
    """The unknowns of the least broken generators, the least first."""
    scale = unknowns.movement()
    floor = SMALLEST_MOVEMENT * scale

    def broken(theta: Tensor) -> Tensor:
        rough = unknowns.filtered(theta, lambda curvature: curvature)
        return unknowns.adjoint(_breaking(unknowns.matrix(theta))) + rough + floor * theta

    def moved(theta: Tensor) -> Tensor:
        return unknowns.adjoint(unknowns.matrix(theta)) + floor * theta

    def inverse(theta: Tensor) -> Tensor:
        return unknowns.filtered(theta, lambda curvature: 1 / (curvature + scale))

    A, B, M = (_operator(unknowns, act) for act in (broken, moved, inverse))
    start = _start(A, B, M, unknowns, count + 2)
    with warnings.catch_warnings():
        # what has not converged is judged on other samples, as all is
        warnings.simplefilter("ignore", UserWarning)
        values, vectors = lobpcg(A, start, B=B, M=M, largest=False, maxiter=ITERATIONS, tol=1e-3)
    chosen = vectors[:, np.argsort(values)[:count]]
    return torch.from_numpy(np.ascontiguousarray(chosen.T)).reshape(-1, *unknowns.shape)


def _breaking(matrix: Float[Tensor, "r s"]) -> Float[Tensor, "r s"]:
    """The part of A that no orthogonal flow has, and all of A m."""
    square = matrix[:, :-1]
    return torch.cat([(square + square.mT) / 2, matrix[:, -1:]], 1)


def _start(A: LinearOperator, B: LinearOperator, M: LinearOperator, unknowns: Unknowns, count: int) -> Array:
    """The best in a coarse span, which is solved at once; or noise, made smooth."""
    coarse = unknowns.coarse()
    if coarse is None or len(coarse) < count:
        noise = np.random.default_rng(0).standard_normal((A.shape[0], min(count, A.shape[0])))
        return np.asarray(M @ noise)
    span = coarse.reshape(len(coarse), -1).numpy().T
    forms = [span.T @ (operator @ span) for operator in (A, B)]
    _, best = scipy.linalg.eigh(*[(form + form.T) / 2 for form in forms], subset_by_index=[0, count - 1])
    return np.asarray(span @ best)


def _operator(unknowns: Unknowns, act: Callable[[Tensor], Tensor]) -> LinearOperator:
    size = math.prod(unknowns.shape)

    def each(v: Array) -> Array:
        return np.asarray(act(torch.from_numpy(np.ascontiguousarray(v)).reshape(unknowns.shape)).reshape(-1).numpy())

    return LinearOperator((size, size), matvec=each, matmat=lambda V: np.stack([each(v) for v in V.T], 1), dtype=np.float64)
