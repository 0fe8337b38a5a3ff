"""Generators given by their entries: dense matrices, and sparse ones (compressed rows)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relaxify.lconv.operators.family import Generators, Space


class Dense(Generators):
    """L_i as d_out x d_in matrices: for small spaces (vectors, a ring), and for those who ask for them.

    >>> turn = Dense(torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]), learnable=False)
    >>> turn.act(torch.tensor([[[1.0, 0.0]]]))
    tensor([[[[0., 1.]]]])
    """

    def __init__(
        self,
        matrices: Float[Tensor, "count d_out d_in"],
        *,
        space: Space | None = None,
        space_out: Space | None = None,
        learnable: bool = True,
    ) -> None:
        count, d_out, d_in = matrices.shape
        space, space_out = fitting_spaces(d_out, d_in, space, space_out)
        super().__init__(count, space, space_out=space_out)
        self.matrices: Tensor
        store(self, "matrices", matrices, learnable)

    @classmethod
    def random(cls, count: int, space: Space, *, learnable: bool = True) -> Dense:
        """Gaussian matrices whose rows have norm one on average."""
        d = math.prod(space)
        return cls(torch.randn(count, d, d) / math.sqrt(d), space=space, learnable=learnable)

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        out = torch.einsum("nij,bcj->nbci", self.matrices, self.flat(h))
        return out.reshape(*out.shape[:3], *self.space_out())

    def transpose(self, space: Space | None = None) -> Dense:
        return Dense(self.matrices.detach().mT, space=self.space_out(), space_out=self.space, learnable=False)


class Sparse(Generators):
    """L_i by their non-zero entries, the rows of all of them one below another: row i * d_out + mu is row mu of L_i."""

    def __init__(
        self,
        indices: Int[Tensor, "2 entries"],
        values: Float[Tensor, " entries"],
        count: int,
        space: Space,
        *,
        space_out: Space | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__(count, space, space_out=space_out or space)
        self._rows, d_in = count * math.prod(self.space_out()), math.prod(space)
        order = torch.argsort(indices[0] * d_in + indices[1], stable=True)
        rows, columns = indices[:, order]
        if len(rows) and (rows.min() < 0 or columns.min() < 0 or rows.max() >= self._rows or columns.max() >= d_in):
            raise ValueError(f"sparse generators: an index is outside {self._rows} x {d_in}; fix the indices.")
        starts = torch.zeros(self._rows + 1, dtype=torch.long, device=rows.device)
        starts[1:] = torch.bincount(rows, minlength=self._rows).cumsum(0)
        self.starts: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("starts", starts)
        self.register_buffer("columns", columns)
        store(self, "values", values[order], learnable)

    @property
    def rows(self) -> Int[Tensor, " entries"]:
        """The row of each entry."""
        lengths = self.starts.diff()
        return torch.repeat_interleave(torch.arange(self._rows, device=lengths.device), lengths)

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        batch, channels = h.shape[:2]
        entries, size = torch.stack([self.rows, self.columns]), (self._rows, math.prod(self.space_of(None)))
        matrix = torch.sparse_coo_tensor(entries, self.values.to(h.dtype), size, check_invariants=False)
        out = torch.sparse.mm(matrix.coalesce(), self.flat(h).flatten(0, 1).T)
        return out.unflatten(0, (self.count, -1)).mT.reshape(self.count, batch, channels, *self.space_out())

    def transpose(self, space: Space | None = None) -> Sparse:
        d_out, d_in = math.prod(self.space_out()), math.prod(self.space_of(space))
        generator, mu = self.rows // d_out, self.rows % d_out
        flipped = torch.stack([generator * d_in + self.columns, mu])
        return Sparse(flipped, self.values.detach(), self.count, self.space_out(), space_out=self.space)


def store(module: nn.Module, name: str, values: Tensor, learnable: bool) -> None:
    """Keep a generator's numbers as a Parameter if they are learnable, else as a buffer."""
    if learnable:
        module.register_parameter(name, nn.Parameter(values.detach().clone()))
    else:
        module.register_buffer(name, values.detach().clone())


def fitting_spaces(d_out: int, d_in: int, space: Space | None, space_out: Space | None) -> tuple[Space, Space]:
    """The spaces that d_out x d_in matrices act between, where one is not given. ValueError if a given one does not fit."""
    space = space or (d_in,)
    space_out = space_out or (space if d_out == d_in else (d_out,))
    if (math.prod(space_out), math.prod(space)) != (d_out, d_in):
        raise ValueError(f"generators of {d_out} x {d_in} do not fit {space} -> {space_out}; pass spaces of as many points.")
    return space, space_out
