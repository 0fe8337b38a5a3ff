"""Symmetry: one report for every way in which a Lie algebra is found, saying how sure it is and what it is."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import Signature, closure_residual, exponential, orthonormal, structure_constants
from relaxify.figures import spectrum_of
from relaxify.groups import Group
from relaxify.lconv.operators import Dense, Generators
from relaxify.lconv.symmetry.by_name import named
from relaxify.lconv.symmetry.classical import LARGEST_NAMED, invariants, names_of
from relaxify.lconv.symmetry.forms import InvariantForm, invariant_form
from relaxify.lconv.symmetry.page import page_of
from relaxify.lconv.symmetry.subspaces import Overlap, overlap
from relaxify.pages import finite
from relaxify.rendered import Rendered

if TYPE_CHECKING:
    from relaxify.figures import Figure

POWER = 0.95

# in generators times d^6: the form of one generator on 45 coordinates takes seconds, on 256 more memory than there is
LARGEST_FORM = 2**33


class Verdict(enum.StrEnum):
    """What the evidence comes to: a Lie algebra, a finite group instead, neither, or nothing as yet."""

    FOUND = "found"
    DISCRETE = "discrete"
    NONE = "none"
    TOO_FEW = "too few data"

    @classmethod
    def of(cls, found: bool) -> Verdict:
        """Of a search that knows but two."""
        return cls.FOUND if found else cls.NONE


@dataclass(frozen=True, eq=False, repr=False)
class Symmetry(Rendered):
    """A Lie algebra that was looked for, with what speaks for it and against it.

    `generators` are an orthonormal basis, (dimension, d, d), and `output_generators` what goes with each on the outputs.
    `verdict` says what the evidence comes to, and `reason` why; only a symmetry that is `found` has a `name`.
    `smallest_break` is the smallest break of the symmetry that these data would have shown with a probability of `power`,
    `samples_needed` how many samples would do where they are too few, and `discrete` the finite group that is kept.
    `spectrum` holds how strongly each direction of gl(d) is broken, ascending, relative to a random direction: the first
    `dimension` of them are the algebra's. `held_out_defect` is how much the generators break on data that they were not
    found on, relative to the same. `confidence_angle` is the angle in degrees that holds the true algebra with 95 %
    confidence, from `bootstraps` resamplings. `moved` is how far along the one generator pairs are apart. `frame`
    are coordinates in which what does not depend on them (brackets, Killing form, name) is better conditioned.
    """

    generators: Float[Tensor, "dimension d d"]
    verdict: Verdict
    reason: str
    source: str
    spectrum: Float[Tensor, " directions"] | None = None
    held_out_defect: float | None = None
    confidence_angle: float | None = None
    bootstraps: int = 0
    output_generators: Float[Tensor, "dimension c c"] | None = None
    space: tuple[int, ...] | None = None
    frame: Float[Tensor, "d d"] | None = None
    smallest_break: float | None = None
    power: float = POWER
    samples_needed: int | None = None
    discrete: str | None = None
    moved: float | None = None

    @property
    def found(self) -> bool:
        """Whether the verdict is that there is a Lie algebra."""
        return self.verdict is Verdict.FOUND

    @property
    def dimension(self) -> int:
        """Of the algebra: how many generators there are."""
        return len(self.generators)

    @property
    def gap(self) -> float | None:
        """By what factor the first broken direction is broken more than the last kept one; None if that cannot be told."""
        if self.spectrum is None or not 0 < self.dimension < len(self.spectrum):
            return None
        kept, broken = float(self.spectrum[self.dimension - 1]), float(self.spectrum[self.dimension])
        return broken / kept if kept > 0 else math.inf

    @functools.cached_property
    def closure_residual(self) -> float | None:
        """How much of the brackets lies outside the span: 0 for an algebra. None where it would take too long."""
        return closure_residual(self._framed) if self._small else None

    @functools.cached_property
    def structure_constants(self) -> Float[Tensor, "n n n"] | None:
        """The f_ij^k of [L_i, L_j] = f_ij^k L_k (LC eq. 2)."""
        return structure_constants(self.generators) if self._small else None

    @functools.cached_property
    def killing_signature(self) -> Signature | None:
        """Signs of the Killing form: all negative for a compact semisimple algebra."""
        if not self._small or not self.dimension:
            return None
        return invariants(self._framed, self.closure_residual or 0.0).killing

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """What the span is called as an algebra, whether or not there is evidence for it."""
        return names_of(self._framed, self.closure_residual or 0.0)

    @property
    def name(self) -> str | None:
        """The algebra's name, if a symmetry was found and it is a classical one."""
        return self.names[0] if self.found and self.names else None

    @functools.cached_property
    def form(self) -> InvariantForm | None:
        """The bilinear form J with L^T J + J L = 0 that the algebra keeps, if any."""
        d = self.generators.shape[-1]
        is_affordable = self.dimension * d**6 <= LARGEST_FORM
        found = invariant_form(self._framed, tolerance=0.05) if self._small and is_affordable else None
        if found is None or self.frame is None:
            return found
        back = torch.linalg.inv(self.frame)
        matrix = back.mT @ found.matrix @ back
        return replace(found, matrix=matrix / matrix.norm())

    @property
    def _small(self) -> bool:
        return self.dimension <= LARGEST_NAMED

    @functools.cached_property
    def _framed(self) -> Float[Tensor, "dimension d d"]:
        if self.frame is None:
            return self.generators
        framed = torch.linalg.solve(self.frame, self.generators @ self.frame)
        return orthonormal(framed) if self._small else framed

    def overlap(self, known: Group | str | Tensor) -> Overlap:
        """With another algebra: a named one, or a sum of such as reports name them, a Group, or matrices (n, d, d).

        With the level that chance reaches. ValueError for a name of none, or of another size.
        """
        if isinstance(known, str):
            known = named(known, self.generators.shape[-1])
        return overlap(self.generators, known if isinstance(known, Tensor) else known.generators)

    def as_operators(self) -> Generators:
        """The generators as a frozen family, to build an L-conv on. ValueError if there are none."""
        if not self.dimension:
            raise ValueError("there is no symmetry here, so there are no generators to build on.")
        matrices = self.generators.to(torch.get_default_dtype())
        return Dense(matrices, space=self.space, learnable=False)

    def flow(
        self, x: Float[Tensor, "*batch d"], times: Sequence[float], generator: int = 0
    ) -> Float[Tensor, "times *batch d"]:
        """exp(t L) x for each time t: where the symmetry takes a sample."""
        matrix = self.generators[generator].to(x.dtype)
        return torch.stack([x @ exponential(t * matrix).mT for t in times])

    def to_dict(self, known: Mapping[str, Group | str | Tensor] | None = None) -> dict[str, Any]:
        """Plain data, with the overlaps with `known` algebras of the same size."""
        overlaps = {name: self.overlap(other) for name, other in (known or {}).items()}
        return {
            "verdict": str(self.verdict),
            "found": self.found,
            "name": self.name,
            "discrete": self.discrete,
            "reason": self.reason,
            "smallest_break": self.smallest_break,
            "power": self.power,
            "samples_needed": self.samples_needed,
            "dimension": self.dimension,
            "names_of_the_span": self.names,
            "gap": self.gap,
            "closure_residual": self.closure_residual,
            "killing_signature": None if self.killing_signature is None else str(self.killing_signature),
            "held_out_defect": self.held_out_defect,
            "confidence_angle": self.confidence_angle,
            "moved": self.moved,
            "overlaps": {name: dataclasses.asdict(overlap) for name, overlap in overlaps.items()},
            "spectrum": None if self.spectrum is None else self.spectrum.tolist(),
            "generators": self.generators.tolist(),
        }

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The spectrum, a row for each direction: how much it is broken, and whether it is kept."""
        values = [] if self.spectrum is None else self.spectrum.tolist()
        return [{"direction": i + 1, "broken": each, "kept": i < self.dimension} for i, each in enumerate(values)]

    def to_json(self, known: Mapping[str, Group | str | Tensor] | None = None) -> str:
        """`to_dict` as JSON, with null in the place of what is not finite."""
        return json.dumps(finite(self.to_dict(known)), indent=2)

    def to_html(
        self,
        samples: Float[Tensor, "n *shape"] | None = None,
        *,
        known: Mapping[str, Group | str | Tensor] | None = None,
        header: Mapping[str, str] | None = None,
    ) -> str:
        """The report as a page that needs no network: verdict, spectrum and gap, generators and their flows.

        `samples` are (n, d), (n, vectors, d) or images (n, 1, height, width); `header` says more, such as their file.

        >>> found = Symmetry(torch.zeros(0, 2, 2), Verdict.NONE, "all is broken.", "distribution")
        >>> "<h1>No symmetry</h1>" in found.to_html()
        True
        """
        return page_of(self, self.lines(known), samples, header)

    def plot(self) -> Figure:
        """The spectrum and the generators as a figure."""
        values = [] if self.spectrum is None else self.spectrum.tolist()
        return spectrum_of(self._title, values, list(self.generators.numpy()))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, known: Mapping[str, Group | str | Tensor] | None = None) -> list[str]:
        """The report, line by line, with the overlaps with `known` algebras of the same size."""
        lines = [
            f"{self.source}: {self._title}",
            f"  {self.reason}",
            f"  dimension {self.dimension} of gl({self.generators.shape[-1]})",
        ]
        if self.names:
            lines[-1] += f", as an algebra {' = '.join(self.names)}"
        facts = {
            f"a break of {{:.2g}} or more would have shown with probability {self.power:g}": self.smallest_break,
            "{:,} samples would do": self.samples_needed,
            "spectral gap {:.3g}": self.gap,
            "closure residual {:.2g}": self.closure_residual if self.dimension else None,
            "Killing form {}": self.killing_signature,
            "keeps {}": self.form,
            "defect on held-out data {:.2g}": self.held_out_defect,
            "pairs are apart by exp(t L) with t = {:.4g}": self.moved,
            f"within {{:.2g}} degrees with 95 % confidence ({self.bootstraps} resamplings)": self.confidence_angle,
        }
        lines += [f"  {words.format(value)}" for words, value in facts.items() if value is not None]
        lines += [f"  {self.overlap(other)} with {name}" for name, other in (known or {}).items() if self.dimension]
        return lines

    @property
    def _title(self) -> str:
        titles = {
            Verdict.FOUND: f"symmetry {self.name or 'without a name'}",
            Verdict.DISCRETE: f"discrete symmetry {self.discrete}",
            Verdict.NONE: "no symmetry",
            Verdict.TOO_FEW: "too few data to tell",
        }
        return titles[self.verdict]


def cut(spectrum: Float[Tensor, " directions"], largest_defect: float, smallest_gap: float) -> int:
    """How many directions are a null space: where the spectrum jumps most, if it starts low and jumps enough.

    >>> cut(torch.tensor([0.01, 0.02, 0.9, 1.0]), 0.2, 2.5), cut(torch.tensor([0.15, 0.3, 0.4, 1.0]), 0.2, 2.5)
    (2, 0)
    """
    low = int((spectrum <= largest_defect).sum())
    if low == len(spectrum):
        return low
    floor = 1e-9
    gaps = [float(spectrum[k].clamp(min=floor) / spectrum[k - 1].clamp(min=floor)) for k in range(1, low + 1)]
    best = max(range(len(gaps)), key=gaps.__getitem__, default=-1)
    return best + 1 if best >= 0 and gaps[best] >= smallest_gap else 0
