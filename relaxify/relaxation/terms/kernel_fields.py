"""The structure of a steerable kernel: a table of blocks, one for each pair of an output field and an input field.

The map E from a layer's coefficients to its kernel has, in the block of fields o and i, E(w)_oi = sum_a w_oia B_a, with the
same B_a for all pairs of fields of the same two kinds. It is found by probing E, and nothing of it is assumed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.representations import Representation, slices

Linear = Callable[[Tensor], Tensor]

# what rounding makes of an entry that is zero, relative to the largest
ROUNDING = 1e-10


class Kind(NamedTuple):
    """Fields of one representation: their numbers among all fields of a side, and which entries each one has."""

    fields: range
    entries: Int[Tensor, "fields dimension"]


def kinds_of(rep: Representation) -> list[Kind]:
    """The fields of a feature vector: the copies in the blocks of its representation, alike if the blocks are."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    for block, where in zip(rep.blocks, slices(rep.blocks), strict=True):
        found.setdefault((block.name, block.dimension), []).append(block.split(torch.arange(rep.dim)[where]))
    entries = [torch.cat(parts) for parts in found.values()]
    ends = list(itertools.accumulate(map(len, entries), initial=0))
    return [Kind(range(*pair), own) for pair, own in zip(itertools.pairwise(ends), entries, strict=True)]


@dataclass(frozen=True)
class KernelFields:
    """E, by blocks: `table[o, i, a]` is the coefficient w_oia, -1 where there is none.

    `bases` has B, of shape (slots, d_out, d_in), by the kinds' places among `rows` and `columns`.
    """

    rows: list[Kind]
    columns: list[Kind]
    table: Int[Tensor, "outs ins slots"]
    bases: dict[tuple[int, int], Tensor]

    def alike(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """A kind's place among `rows`, the fields of this kind that read the same input fields, and those."""
        reads = (self.table >= 0).any(2)
        for place, kind in enumerate(self.rows):
            together: dict[tuple[int, ...], list[int]] = {}
            for field in kind.fields:
                together.setdefault(tuple(reads[field].nonzero()[:, 0].tolist()), []).append(field)
            yield from ((place, outs, list(ins)) for ins, outs in together.items() if ins)


def kernel_fields(
    expand: Linear, transposed: Linear, size: int, rows: list[Kind], columns: list[Kind]
) -> KernelFields | None:
    """The blocks of a linear map `expand` from `size` coefficients to matrices, or None if it has no such structure."""
    shape = sum(kind.entries.numel() for kind in rows), sum(kind.entries.numel() for kind in columns)
    if expand(torch.zeros(size, dtype=torch.float64)).shape != shape:
        return None
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outs = _acted_on(lambda mask: transposed(noise * mask[:, None]), rows)
    ins = _acted_on(lambda mask: transposed(noise * mask), columns)
    if outs is None or ins is None or not (acts := outs >= 0).any():
        return None
    slots = _places(torch.where(acts, outs * columns[-1].fields.stop + ins, -1))
    table = torch.full((rows[-1].fields.stop, columns[-1].fields.stop, int(slots.max()) + 1), -1)
    table[outs[acts], ins[acts], slots[acts]] = torch.arange(size)[acts]
    bases = _bases(expand, size, rows, columns, table)
    return None if bases is None else KernelFields(rows, columns, table, bases)


def _acted_on(responses: Linear, kinds: list[Kind]) -> Int[Tensor, " coefficients"] | None:
    """The one field that each coefficient acts on; -1 if none, and None if one acts on several.

    Read bit by bit of the fields' numbers: a coefficient has to answer to one half of the fields alone.
    """
    number = torch.empty(sum(kind.entries.numel() for kind in kinds), dtype=torch.int64)
    for kind in kinds:
        number[kind.entries] = torch.tensor(kind.fields)[:, None]
    answers = responses(torch.ones_like(number)).abs()
    least = ROUNDING * answers.max()
    label = torch.where(answers > least, 0, -1)
    for bit in range((kinds[-1].fields.stop - 1).bit_length()):
        zero, one = (responses((number >> bit) & 1 == value).abs() > least for value in (0, 1))
        if (zero & one).any():
            return None
        label += torch.where(one & (label >= 0), 1 << bit, 0)
    return label


def _places(key: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The place of each entry among those of the same key."""
    order = torch.argsort(key, stable=True)
    _, group, counts = key[order].unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.empty_like(key)
    place[order] = torch.arange(len(key)) - (counts.cumsum(0) - counts)[group]
    return torch.where(key < 0, -1, place)


def _bases(
    expand: Linear, size: int, rows: list[Kind], columns: list[Kind], table: Int[Tensor, "outs ins slots"]
) -> dict[tuple[int, int], Tensor] | None:
    """B of each pair of kinds, from one probe for each slot in all blocks at once; None if a pair's blocks differ."""
    parts: dict[tuple[int, int], list[Tensor]] = {}
    for own in table.unbind(2):
        probe = torch.zeros(size, dtype=torch.float64)
        probe[own[own >= 0]] = 1
        kernel = expand(probe)
        for (a, out), (b, into) in itertools.product(enumerate(rows), enumerate(columns)):
            there = (own[out.fields.start : out.fields.stop, into.fields.start : into.fields.stop] >= 0).double()
            blocks = blocks_between(kernel, out.entries, into.entries)
            basis = torch.einsum("oi,oirx->rx", there, blocks) / there.sum().clamp(min=1)
            if (blocks - there[..., None, None] * basis).abs().max() > ROUNDING * kernel.abs().max():
                return None
            if there.any():
                parts.setdefault((a, b), []).append(basis)
    return {pair: torch.stack(basis) for pair, basis in parts.items()}


def blocks_between(
    matrix: Float[Tensor, "m n"], rows: Int[Tensor, "outs d_out"], columns: Int[Tensor, "ins d_in"]
) -> Float[Tensor, "outs ins d_out d_in"]:
    """The blocks of a matrix, for fields of one kind on either side."""
    return matrix[rows.flatten()][:, columns.flatten()].view(*rows.shape, *columns.shape).transpose(1, 2)
