"""Cause: why an operation breaks the symmetry, as data, and the sentence that says it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


class CauseKind(enum.StrEnum):
    """What went wrong. Members equal their names as strings: `CauseKind.BIAS == "bias"`."""

    BIAS = "bias"
    COMPARISON = "comparison"
    COURSE = "course"
    CONSTANT = "constant"
    CONVENTION = "convention"
    DROPOUT = "dropout"
    FLATTEN = "flatten"
    KERNEL = "kernel"
    MISMATCH = "mismatch"
    MIXING = "mixing"
    NONLINEARITY = "nonlinearity"
    NORMALISATION = "normalisation"
    OTHER = "other"
    PADDING = "padding"
    PARITY = "parity"
    POSITION = "position"
    REDUCTION = "reduction"
    RESAMPLING = "resampling"
    ROUNDING = "rounding"
    SELECTION = "selection"
    TIES = "ties"


Form = Literal["", "basis", "border", "even kernel", "factor", "infinite", "note", "overflow", "pixels", "stride", "windows"]
"""Which of its forms a kind takes, where it has several; "" is the usual one."""


@dataclass(frozen=True)
class Cause:
    """Why `op` breaks the symmetry of `group`; `details` are the numbers and names that its sentence quotes."""

    kind: CauseKind
    op: str
    group: str
    form: Form = ""
    details: Mapping[str, int | str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The cause in one sentence, without its full stop.

        >>> print(Cause(CauseKind.REDUCTION, op="sum", group="SO(3)"))
        sum runs over the axis whose components transform
        """
        return _SENTENCES[self.kind, self.form].format(op=self.op, group=self.group, **self.details)


_SENTENCES: dict[tuple[CauseKind, Form], str] = {
    (CauseKind.TIES, ""): (
        "these inputs are on an edge: values that {op} orders or cuts off tie, and their last digits decide; move the "
        "inputs a little, or let weights fall to 0 at the cut-off"
    ),
    (CauseKind.BIAS, ""): "a constant (a bias) is added to components that transform; only zero is the same in every frame",
    (CauseKind.COMPARISON, ""): "{op} compares single components, whose order depends on the frame; compare lengths instead",
    (CauseKind.CONSTANT, ""): "{op} combines components that transform with values that do not",
    (CauseKind.CONVENTION, ""): "wrong convention: it transforms by the inverse of g, as if R^T were used instead of R",
    (CauseKind.CONVENTION, "factor"): "wrong convention: {op} would commute if one factor were transposed, R^T instead of R",
    (CauseKind.CONVENTION, "basis"): (
        "convention: the output transforms as vectors do in another basis, or with their axes in another order"
    ),
    (CauseKind.COURSE, ""): "from {op} on the run on g x takes another course than that on x, so it depends on the frame",
    (CauseKind.DROPOUT, ""): "dropout zeroes single components that transform; drop whole vectors instead",
    (CauseKind.FLATTEN, ""): (
        "{op} reads a flattened map, with weights of its own for every pixel; pool over the pixels before it"
    ),
    (CauseKind.KERNEL, ""): (
        "{op}'s kernel does not commute with {group}: average it over the group's turns and flips, or convolve with all its "
        "turned copies"
    ),
    (CauseKind.MISMATCH, ""): "{op} combines values that transform differently",
    (CauseKind.MIXING, ""): "{op} mixes components that transform with a fixed matrix; mix channels instead",
    (CauseKind.NONLINEARITY, ""): "{op} acts on single components; let it act on invariants and multiply by those",
    (CauseKind.NORMALISATION, ""): "{op} normalises over components that transform; normalise lengths instead",
    (CauseKind.OTHER, ""): "{op} does not commute with {group}",
    (CauseKind.OTHER, "infinite"): "{op} gives NaN or infinite values",
    (CauseKind.OTHER, "note"): "its value does not transform in a known way, though the output does",
    (CauseKind.PADDING, ""): "{op} adds more pixels on one side than on the others; pad all sides alike",
    (CauseKind.PADDING, "border"): (
        "{op} meets a border, where shifts push pixels out; pad circularly (padding_mode='circular')"
    ),
    (CauseKind.PARITY, ""): "parity: it commutes with rotations, but not with the reflections of {group}",
    (CauseKind.POSITION, ""): (
        "{op} combines maps that move with values that stay at their pixels (absolute positions); let them depend on the "
        "distance from the centre alone, or leave them out"
    ),
    (CauseKind.REDUCTION, ""): "{op} runs over the axis whose components transform",
    (CauseKind.RESAMPLING, ""): "{op} works on a grid that the group does not map to itself",
    (CauseKind.RESAMPLING, "even kernel"): (
        "{op} with an even kernel and padding='same' pads one side more than the other; use an odd kernel"
    ),
    (CauseKind.RESAMPLING, "stride"): (
        "{op} keeps one pixel in {stride}: it commutes only with shifts by multiples of {stride} pixels"
    ),
    (CauseKind.RESAMPLING, "windows"): (
        "{op} with windows of {kernel} every {stride} pixels leaves {rest} of {size} out at one end; choose sizes for which "
        "size + {padded} - {reach} is a multiple of {stride}"
    ),
    (CauseKind.ROUNDING, ""): "rounding only: the model is equivariant in float64, and {op} loses its digits in {dtype}",
    (CauseKind.ROUNDING, "overflow"): (
        "the model is equivariant in float64, and {op} gives NaN or infinite values in {dtype}: keep its input in range"
    ),
    (CauseKind.SELECTION, ""): "{op} picks or moves single components: it singles out an axis of the frame",
    (CauseKind.SELECTION, "pixels"): "{op} picks or shifts pixels so that the grid's centre moves; treat all sides alike",
}
