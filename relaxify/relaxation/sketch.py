"""Sketch: what a term keeps of its inputs, so that the penalty needs no activations of the forward pass.

Either the second moment sum x x^T (enough for `rms` over every row), or input rows: all of them, or a uniform sample of
fixed size over everything seen since the penalty was last read.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.relaxation.config import RelaxConfig

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX = (-4658895280553007687, -7723592293110705685)  # splitmix64's multipliers


def hashed_integers(counter: int, count: int, high: int, device: torch.device) -> Int[Tensor, " count"]:
    """`count` integers in [0, high) from splitmix64 of a counter: repeatable, and no random stream is touched."""
    z = (torch.arange(count, device=device) + counter * count) * _GOLDEN
    for shift, multiplier in zip((30, 27), _MIX, strict=True):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return (z ^ ((z >> 31) & ((1 << 33) - 1))).remainder(high)


class Sketch:
    """A running summary of input rows x and of the size of the equivariant output.

    `seen` counts the rows since the last `read`; the summary itself stays available until the next row arrives. `updates`
    is the place in the stream of sampled rows, which resumed training goes on from.
    """

    def __init__(self, config: RelaxConfig) -> None:
        self.rows_kept = config.rows
        self.keeps_moment = config.rows is None and config.reduction == "rms"
        self.seen = 0
        self.stale = False
        self.updates = 0
        self._rows: Tensor | None = None
        self._moment: Tensor | None = None
        self._output_square: Tensor | None = None

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*rows n"], output: Float[Tensor, "..."]) -> None:
        """Add a batch of input rows, and the equivariant output they had."""
        x = x.detach().reshape(-1, x.shape[-1])
        if not len(x):
            return
        if self.stale:
            self.seen, self.stale = 0, False
            self._rows = self._moment = self._output_square = None
        square = torch.linalg.vector_norm(output.detach(), dtype=torch.promote_types(output.dtype, torch.float32)).square()
        self._output_square = square if self._output_square is None else self._output_square + square
        if self.keeps_moment:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            self._moment = x.mT @ x if self._moment is None else self._moment.to(x.dtype) + x.mT @ x
        else:
            self._rows = self._kept(x)
        self.seen += len(x)
        self.updates += 1

    def _kept(self, x: Float[Tensor, "rows n"]) -> Float[Tensor, "kept n"]:
        """Every slot of a full reservoir holds a uniformly chosen row of all rows seen, so means over it are unbiased."""
        k, old = self.rows_kept, self._rows
        if k is None or self.seen + len(x) <= k:
            x = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
            return x if old is None else torch.cat([old, x])
        index = hashed_integers(self.updates, k, self.seen + len(x), x.device)
        fresh = x[(index - self.seen).clamp(min=0)].to(torch.promote_types(x.dtype, torch.float32))
        if old is None:
            return fresh
        kept = old if len(old) == k else old[index.clamp(max=len(old) - 1)]
        return torch.where((index < self.seen)[:, None], kept, fresh)

    def read(self) -> None:
        """Mark the summary as used: the next batch starts a new one."""
        self.stale = True

    @property
    def rows(self) -> Float[Tensor, "kept n"] | None:
        """The kept input rows, or None if the second moment is kept instead or nothing was seen."""
        return self._rows

    @property
    def moment(self) -> Float[Tensor, "n n"] | None:
        """C = E[x x^T] over the rows seen (from the kept rows if these are what is kept), or None if nothing was seen."""
        if self._moment is not None:
            return self._moment / self.seen
        return None if self._rows is None else self._rows.mT @ self._rows / len(self._rows)

    @property
    def output_square(self) -> Tensor | None:
        """E|f_e(x)|^2 of the equivariant output per input row, or None if nothing was seen."""
        return None if self._output_square is None else self._output_square / self.seen
