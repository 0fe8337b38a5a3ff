"""What a conversion did, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["drop", "fold"]


@dataclass(frozen=True)
class TermConversion:
    """What became of the term at a site: `norm` is |theta W|, `folded` the share of |theta W|^2 its layer took over.

    `unfoldable` says why a term was dropped though fold was asked for; `symmetrised` whether its layer is an ordinary
    convolution, of whose kernel only the symmetric part was kept.
    """

    path: str
    theta: float
    norm: float
    folded: float | None = None
    unfoldable: str | None = None
    symmetrised: bool = False

    @property
    def note(self) -> str | None:
        """What there is to say besides the numbers."""
        if self.unfoldable is not None:
            return f"dropped: {self.unfoldable}"
        return "dropped, and its kernel symmetrised" if self.symmetrised else None


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
