"""Sketch: what a term keeps of its inputs, so that the penalty needs no activations of the forward pass.

Either input rows (all of them, or a uniform sample of fixed size over everything seen since the penalty was last read), or
the second moment sum x x^T, which is enough for `rms` over every row and smaller once there are more rows than features.

An update is made of tensor operations, and what it decides on in Python (whether it is the first since the last read, and
the shapes) is the same in every training step, so that a compiled model's graph contains it and is compiled once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.grids.convolution import Patches
from relaxify.relaxation.config import RelaxConfig

# of one layer's rows, where every row is kept: 256 MiB in single precision, or one forward pass if that has more
MOST_ENTRIES = 2**26

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


class _Kept(NamedTuple):
    """What is kept of the rows since the last `read`: rows, or sum x x^T; sum |f_e(x)|^2; and how many rows there were."""

    seen: Int[Tensor, ""]
    rows: Tensor | None = None
    moment: Tensor | None = None
    output_square: Tensor | None = None
    is_sample: bool = False


class Sketch:
    """A running summary of input rows x and of the size of the equivariant output.

    `seen` counts the rows since the last `read`; the summary itself stays available until the next row arrives. `updates`
    is the place in the stream of sampled rows, from which resumed training continues. `is_sample` says that the rows are
    drawn at random, each for itself, and not all that were seen. An update that is interrupted changes nothing; a forward
    pass that is interrupted leaves the rows that it has seen, as one does that no penalty was read of.
    """

    def __init__(self, config: RelaxConfig) -> None:
        self.rows_kept = config.rows
        self.may_keep_moment = config.rows is None and config.reduction == "rms"
        # what is kept, whether it was read, and `updates`: all at once, as an update may be interrupted anywhere
        self._state = _Kept(torch.zeros((), dtype=torch.int64)), True, torch.zeros((), dtype=torch.int64)

    @property
    def stale(self) -> bool:
        """Whether the summary was read, so that the next row starts a new one."""
        return self._state[1]

    @property
    def seen(self) -> int:
        return int(self._state[0].seen)

    @property
    def is_sample(self) -> bool:
        return self._state[0].is_sample

    @property
    def updates(self) -> int:
        return int(self._state[2])

    @updates.setter
    def updates(self, value: int) -> None:
        """Go on from another place, with new rows."""
        self._state = self._state[0], True, torch.tensor(value)

    @property
    def count(self) -> Int[Tensor, ""]:
        """`seen`, without waiting for the device."""
        return self._state[0].seen

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever seen."""
        return self.rows is None and self._state[0].moment is None

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*rows n"] | Patches, output: Float[Tensor, "..."] | None) -> None:
        """Add a batch of input rows, or of patches, and the equivariant output they had, if it was computed."""
        x = x.detach().reshape(-1, x.shape[-1]) if isinstance(x, Tensor) else x
        if not len(x):
            return
        kept, stale, updates = self._state
        if stale:
            kept, updates = _Kept(torch.zeros_like(kept.seen, device=x.device)), updates.to(x.device)
        square = kept.output_square if output is None else _plus_square(kept.output_square, output.detach())
        if self.rows_kept is not None:
            new = _at_most(self.rows_kept, kept, x, updates)
        elif self.may_keep_moment:
            new = _all_or_moment(kept, _all(x))
        else:
            every = _all(x)
            new = _at_most(max(MOST_ENTRIES // max(every.shape[1], 1), len(every)), kept, every, updates)
        self._state = new._replace(seen=kept.seen + len(x), output_square=square), False, updates + 1

    def read(self) -> None:
        """Mark the summary as used: the next batch starts a new one."""
        kept, _, updates = self._state
        self._state = kept, True, updates

    @property
    def rows(self) -> Float[Tensor, "kept n"] | None:
        """The kept input rows, or None if the second moment is kept instead or nothing was seen."""
        return self._state[0].rows

    @property
    def keeps_moment(self) -> bool:
        return self._state[0].moment is not None

    @property
    def moment(self) -> Float[Tensor, "n n"] | None:
        """C = E[x x^T] over the rows seen (from the kept rows if these are what is kept), or None if nothing was seen."""
        kept = self._state[0]
        if kept.moment is not None:
            return kept.moment / kept.seen
        return None if kept.rows is None else kept.rows.mT @ kept.rows / len(kept.rows)

    def mean_square(self, matrix: Float[Tensor, "m n"]) -> Float[Tensor, ""] | None:
        """E|matrix x|^2 over the rows seen, or None if nothing was seen."""
        if (rows := self.rows) is not None:
            return (rows @ matrix.to(rows).mT).square().sum(1).mean()
        moment = self.moment
        return None if moment is None else ((matrix.to(moment) @ moment) * matrix.to(moment)).sum().clamp(min=0)

    @property
    def output_square(self) -> Tensor | None:
        """E|f_e(x)|^2 of the equivariant output per input row, or None if nothing was seen."""
        kept = self._state[0]
        return None if kept.output_square is None else kept.output_square / kept.seen


def _all_or_moment(kept: _Kept, x: Float[Tensor, "rows n"]) -> _Kept:
    """Every row while there are no more rows than features, when applying W to them is cheaper; else x^T x."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if kept.moment is not None:
        return kept._replace(moment=kept.moment.to(x.dtype) + x.mT @ x)
    old = kept.rows
    if len(x) + (0 if old is None else len(old)) <= x.shape[1]:
        return kept._replace(rows=x.clone() if old is None else torch.cat([old, x]))
    return kept._replace(moment=x.mT @ x if old is None else x.mT @ x + (old.mT @ old).to(x.dtype), rows=None)


def _at_most(k: int, kept: _Kept, x: Float[Tensor, "rows n"] | Patches, updates: Int[Tensor, ""]) -> _Kept:
    """Every slot of a full reservoir holds a uniformly chosen row of all rows seen, so means over it are unbiased."""
    old = kept.rows
    # as long as less than k rows are held, they are all that were seen
    if not kept.is_sample and len(x) + (0 if old is None else len(old)) <= k:
        rows = _all(x)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)
        return kept._replace(rows=rows if old is None else torch.cat([old, rows]))
    high = len(x) if old is None else kept.seen + len(x)
    index = hashed_integers(updates, k, high, x.device)
    if old is None:
        return kept._replace(rows=_taken(x, index), is_sample=True)
    before = old if len(old) == k else old[index.clamp(max=len(old) - 1)]
    rows = torch.where((index < kept.seen)[:, None], before, _taken(x, (index - kept.seen).clamp(min=0)))
    return kept._replace(rows=rows, is_sample=True)


def _plus_square(total: Tensor | None, output: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    square = torch.linalg.vector_norm(output, dtype=torch.promote_types(output.dtype, torch.float32)).square()
    return square if total is None else total + square


def _all(x: Float[Tensor, "rows n"] | Patches) -> Float[Tensor, "rows n"]:
    return x if isinstance(x, Tensor) else x.all()


def _taken(x: Float[Tensor, "rows n"] | Patches, index: Int[Tensor, " kept"]) -> Float[Tensor, "kept n"]:
    rows = x[index]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
