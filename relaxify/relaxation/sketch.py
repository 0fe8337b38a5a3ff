"""Sketch: what a term keeps of its inputs, so that the penalty needs no activations of the forward pass.

Either input rows (all of them, or a uniform sample of fixed size over everything seen since the penalty was last read), or
the second moment sum x x^T, which is enough for `rms` over every row and smaller once there are more rows than features.

An update is made of tensor operations, and what it decides on in Python (whether it is the first since the last read, and
the shapes) is the same in every training step, so that a compiled model's graph contains it and is compiled once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.grids.convolution import Patches
from relaxify.relaxation.config import RelaxConfig

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX = (-4658895280553007687, -7723592293110705685)  # splitmix64's multipliers


def hashed_integers(
    counter: int | Int[Tensor, ""], count: int, high: int | Int[Tensor, ""], device: torch.device
) -> Int[Tensor, " count"]:
    """`count` integers in [0, high) from splitmix64 of a counter: repeatable, and no random stream is touched."""
    z = (torch.arange(count, device=device) + counter * count) * _GOLDEN
    for shift, multiplier in zip((30, 27), _MIX, strict=True):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return (z ^ ((z >> 31) & ((1 << 33) - 1))).remainder(high)


class Sketch:
    """A running summary of input rows x and of the size of the equivariant output.

    `seen` counts the rows since the last `read`; the summary itself stays available until the next row arrives. `updates`
    is the place in the stream of sampled rows, from which resumed training continues. `is_sample` says that the rows are
    drawn at random, each for itself, and not all that were seen.
    """

    def __init__(self, config: RelaxConfig) -> None:
        self.rows_kept = config.rows
        self.may_keep_moment = config.rows is None and config.reduction == "rms"
        self.stale = True
        self.is_sample = False
        self._seen = torch.zeros((), dtype=torch.int64)
        self._updates = torch.zeros((), dtype=torch.int64)
        self._rows: Tensor | None = None
        self._moment: Tensor | None = None
        self._output_square: Tensor | None = None

    @property
    def seen(self) -> int:
        return int(self._seen)

    @property
    def updates(self) -> int:
        return int(self._updates)

    @updates.setter
    def updates(self, value: int) -> None:
        self._updates = torch.tensor(value)

    @property
    def count(self) -> Int[Tensor, ""]:
        """`seen`, without waiting for the device."""
        return self._seen

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever seen."""
        return self._rows is None and self._moment is None

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*rows n"] | Patches, output: Float[Tensor, "..."] | None) -> None:
        """Add a batch of input rows, or of patches, and the equivariant output they had, if it was computed."""
        x = x.detach().reshape(-1, x.shape[-1]) if isinstance(x, Tensor) else x
        if not len(x):
            return
        if self.stale:
            self._rows = self._moment = self._output_square = None
            self._seen = torch.zeros_like(self._seen, device=x.device)
            self._updates = self._updates.to(x.device)
            self.stale = False
        if output is not None:
            self._add_square(output.detach())
        if self.may_keep_moment:
            self._keep_all_or_moment(_all(x))
        else:
            self._rows = self._kept(x)
        self._seen = self._seen + len(x)
        self._updates = self._updates + 1

    def _add_square(self, output: Float[Tensor, "..."]) -> None:
        square = torch.linalg.vector_norm(output, dtype=torch.promote_types(output.dtype, torch.float32)).square()
        self._output_square = square if self._output_square is None else self._output_square + square

    def _keep_all_or_moment(self, x: Float[Tensor, "rows n"]) -> None:
        """Every row while there are no more rows than features, when applying W to them is cheaper; else x^T x."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self._moment is not None:
            self._moment = self._moment.to(x.dtype) + x.mT @ x
            return
        old = self._rows
        if len(x) + (0 if old is None else len(old)) <= x.shape[1]:
            self._rows = x.clone() if old is None else torch.cat([old, x])
            return
        self._moment = x.mT @ x if old is None else x.mT @ x + (old.mT @ old).to(x.dtype)
        self._rows = None

    def _kept(self, x: Float[Tensor, "rows n"] | Patches) -> Float[Tensor, "kept n"]:
        """Every slot of a full reservoir holds a uniformly chosen row of all rows seen, so means over it are unbiased."""
        k, old = self.rows_kept, self._rows
        # as long as less than k rows are held, they are all that were seen
        if k is None or len(x) + (0 if old is None else len(old)) <= k:
            self.is_sample = False
            rows = _all(x)
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)
            return rows if old is None else torch.cat([old, rows])
        self.is_sample = True
        high = len(x) if old is None else self._seen + len(x)
        index = hashed_integers(self._updates, k, high, x.device)
        if old is None:
            return _taken(x, index)
        kept = old if len(old) == k else old[index.clamp(max=len(old) - 1)]
        return torch.where((index < self._seen)[:, None], kept, _taken(x, (index - self._seen).clamp(min=0)))

    def read(self) -> None:
        """Mark the summary as used: the next batch starts a new one."""
        self.stale = True

    @property
    def rows(self) -> Float[Tensor, "kept n"] | None:
        """The kept input rows, or None if the second moment is kept instead or nothing was seen."""
        return self._rows

    @property
    def keeps_moment(self) -> bool:
        return self._moment is not None

    @property
    def moment(self) -> Float[Tensor, "n n"] | None:
        """C = E[x x^T] over the rows seen (from the kept rows if these are what is kept), or None if nothing was seen."""
        if self._moment is not None:
            return self._moment / self._seen
        return None if self._rows is None else self._rows.mT @ self._rows / len(self._rows)

    def mean_square(self, matrix: Float[Tensor, "m n"]) -> Float[Tensor, ""] | None:
        """E|matrix x|^2 over the rows seen, or None if nothing was seen."""
        if self._rows is not None:
            return (self._rows @ matrix.to(self._rows).mT).square().sum(1).mean()
        moment = self.moment
        return None if moment is None else ((matrix.to(moment) @ moment) * matrix.to(moment)).sum().clamp(min=0)

    @property
    def output_square(self) -> Tensor | None:
        """E|f_e(x)|^2 of the equivariant output per input row, or None if nothing was seen."""
        return None if self._output_square is None else self._output_square / self._seen


def _all(x: Float[Tensor, "rows n"] | Patches) -> Float[Tensor, "rows n"]:
    return x if isinstance(x, Tensor) else x.all()


def _taken(x: Float[Tensor, "rows n"] | Patches, index: Int[Tensor, " kept"]) -> Float[Tensor, "kept n"]:
    rows = x[index]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
