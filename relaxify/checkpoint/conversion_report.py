"""What a conversion did, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["drop", "fold"]


@dataclass(frozen=True)
class TermConversion:
    """What became of the term at a site: `norm` is |theta W|, `folded` the share of |theta W|^2 its layer took over.

    `note` says why a term was dropped though fold was asked for, and what else was done.
    """

    path: str
    theta: float
    norm: float
    folded: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class StateConversion:
    """What became of one state dict: `where` are the keys that lead to it in the checkpoint, () if it is all of it.

    The parameter counts are the entries of its tensors without theta and records. They include buffers, which a
    checkpoint does not tell from parameters.
    """

    where: tuple[Any, ...]
    terms: tuple[TermConversion, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    parameters_before: int
    parameters_after: int

    @property
    def name(self) -> str:
        return ".".join(map(str, self.where))


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. `left_out` names what else the target lacks, such as optimizer states."""

    source: Path
    target: Path
    mode: Mode
    states: tuple[StateConversion, ...]
    left_out: tuple[str, ...] = ()
