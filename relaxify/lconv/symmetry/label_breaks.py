"""How much each direction of gl(d) is broken by two independent fits of one function, and what that says.

r_L(x) = grad f . L x is how f changes along L. With fits a and b of two halves of the samples E[r_L^a r_L^b] has no bias
from their noise, and E|r_L^a - r_L^b|^2 / 4 is the noise of their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.classical import LARGEST_CLOSURE_RESIDUAL
from relaxify.lconv.symmetry.symmetry import Verdict

# relative to a random direction: what fits leave of a break of nothing, however many the samples
FLOOR = 0.06
# more than so many times the samples at hand cannot be told
MOST_TIMES = 1e6
# of the noise, in squares: what a direction that is not broken may seem to be, and the break that shows in 95 % of draws
CHANCE, SHOWN = 4.0, 5.0
# a direction that seems broken by more than this is doubtful where there is a step before it as well
DOUBTFUL = 2.0
# a symmetry is found if a break of this would have shown ...
LARGEST_BREAK = 0.25
# ... and the next direction is broken by this factor more
SMALLEST_STEP = 2.5
# fits have some errors in common, as where f bends: what is that little broken counts as kept before a step of this
LARGEST_COMMON, CLEAR_STEP = 0.12, 6.0


@dataclass(frozen=True, eq=False)
class Breaks:
    """Orthonormal directions, the least broken first; squares of their breaks and noise, relative to a random direction."""

    directions: Float[Tensor, "k k"]
    squares: Float[Tensor, " k"]
    noise: Float[Tensor, " k"]

    @property
    def spectrum(self) -> Float[Tensor, " k"]:
        """How much each direction is broken."""
        return self.squares.clamp(min=0).sqrt()

    @property
    def unbroken(self) -> int:
        """How many directions are not broken beyond doubt."""
        return int((self.squares <= FLOOR**2 + CHANCE * self.noise).long().cumprod(0).sum())

    @property
    def kept(self) -> int:
        """How many directions may be unbroken: up to the largest step among those that are not broken beyond doubt."""
        unbroken = self.unbroken
        little = int((self.spectrum <= LARGEST_COMMON).sum())
        clear = [k for k in range(unbroken + 1, little + 1) if self.step(k) > CLEAR_STEP]
        return max([*range(1, unbroken + 1), *clear], key=self.step, default=0)

    @property
    def fewer(self) -> int | None:
        """A step before the last directions kept, if these seem broken; None if there is no such doubt."""
        k = self.kept
        if not k or self.squares[k - 1] <= max(LARGEST_COMMON**2, float(FLOOR**2 + DOUBTFUL * self.noise[k - 1])):
            return None
        return next((j for j in range(k - 1, 0, -1) if self.step(j) >= SMALLEST_STEP), None)

    def step(self, k: int) -> float:
        """By what factor the next direction is broken more than the k-th, as far as that can be told."""
        if k == len(self.squares):
            return SMALLEST_STEP
        return float(self.spectrum[k] / self.spectrum[k - 1].clamp(min=FLOOR))

    @property
    def smallest_break(self) -> float:
        """Of the directions kept, or of the first: what would have shown with a probability of 95 %."""
        k = self.kept
        common = float(self.spectrum[k - 1].clamp(FLOOR, LARGEST_COMMON)) if k else FLOOR
        return float((common**2 + SHOWN * self.noise[: max(1, k)].max()).sqrt())

    def samples_needed(self, samples: int) -> int | None:
        """How many would show breaks that are small enough, as the noise's square falls with them; None for no end."""
        excess = (self.smallest_break**2 - FLOOR**2) / (LARGEST_BREAK**2 - FLOOR**2)
        return _rounded(samples * max(excess, 1.5)) if excess < MOST_TIMES else None

    def judge_all(self) -> tuple[Verdict, str]:
        """Whether all of these directions are kept."""
        k, largest = len(self.squares), float(self.spectrum[-1])
        if self.unbroken < k:
            return Verdict.NONE, f"the labels do not keep all of it: a direction is broken by {largest:.2g} of a random one."
        shown = float((FLOOR**2 + SHOWN * self.noise.max()).sqrt())
        words = f"the labels break none of its {k} directions, where a break of {shown:.2g} of a random one would show"
        if shown > LARGEST_BREAK:
            return Verdict.TOO_FEW, f"{words}: that is too coarse."
        return Verdict.FOUND, f"{words}."

    def judge(self, closure: float) -> tuple[Verdict, str]:
        """What the directions kept amount to, whose brackets leave the span by `closure`."""
        k, shown = self.kept, self.smallest_break
        if k == 0:
            return (
                Verdict.NONE,
                f"every direction is broken, the least of them {float(self.spectrum[0]):.2g} of a random one.",
            )
        words = (
            f"{k} of {len(self.squares)} directions are not broken, where a break of {shown:.2g} of a random one would show"
        )
        if shown > LARGEST_BREAK:
            return Verdict.TOO_FEW, f"{words}: that is too coarse."
        if (fewer := self.fewer) is not None:
            seems = f"they may be {fewer}, as the last of them seem broken by {float(self.spectrum[k - 1]):.2g}"
            return Verdict.TOO_FEW, f"{words}, but {seems}."
        doubt = Verdict.TOO_FEW if shown > 2 * FLOOR else Verdict.NONE
        if self.step(k) < SMALLEST_STEP:
            return doubt, f"{words}, but the next is broken only {float(self.spectrum[k]):.2g}: there is no clear step."
        if closure > LARGEST_CLOSURE_RESIDUAL:
            return doubt, f"{words}, but their brackets leave the span (residual {closure:.2g}), so they are not an algebra."
        return Verdict.FOUND, f"{words}, and their brackets stay in the span."


def breaks(
    first: Float[Tensor, "n c vectors k"],
    second: Float[Tensor, "n c vectors k"],
    values: tuple[Tensor, Tensor] | None = None,
    outputs: Float[Tensor, "k c c"] | None = None,
) -> tuple[Breaks, Float[Tensor, "k c c"] | None]:
    """From r_L of both fits, what each vector adds to it, for a basis of k directions.

    A random direction is one that moves each vector by a matrix of its own. With the fits' values (n, c) what turns these
    along is left out: the L_c of `outputs`, or those that leave least. Returns that too, the L_c of each direction.
    """
    weight = _weights(first, second)
    scale = common(first, second).clamp(min=1e-300) / first.shape[-1]
    rows, turns = [first.sum(2) * weight, second.sum(2) * weight], None
    if values is not None:
        parted = [_without_turns(row, value * weight[:, :, 0], outputs) for row, value in zip(rows, values, strict=True)]
        rows, turns = [row for row, _ in parted], (parted[0][1] + parted[1][1]) / 2
    a, b = (row.flatten(0, 1) for row in rows)
    form = (a.mT @ b + b.mT @ a) / 2
    noise = (a - b).mT @ (a - b) / 4
    squares, vectors = torch.linalg.eigh(form)
    found = Breaks(vectors.mT, squares / scale, torch.einsum("ak,ab,bk->k", vectors, noise, vectors) / scale)
    return found, None if turns is None else torch.einsum("ka,aij->kij", found.directions, turns)


def common(first: Float[Tensor, "n c vectors k"], second: Float[Tensor, "n c vectors k"]) -> Tensor:
    """What both fits say of all directions together: not above zero where they have nothing in common."""
    return (_weights(first, second)[..., None] ** 2 * first * second).sum()


def _weights(first: Float[Tensor, "n c vectors k"], second: Float[Tensor, "n c vectors k"]) -> Float[Tensor, "n 1 1"]:
    """The steepest samples count as many others do."""
    size = ((first + second) / 2).flatten(1).norm(dim=1)
    return (1 / (size + size.mean().clamp(min=1e-300)))[:, None, None]


def _without_turns(
    rows: Float[Tensor, "n c k"], values: Float[Tensor, "n c"], outputs: Float[Tensor, "k c c"] | None
) -> tuple[Tensor, Tensor]:
    """r_L - L_c f, with the L_c that is given or makes it least, and that: (k, c, c)."""
    if outputs is not None:
        return rows - torch.einsum("kab,nb->nak", outputs, values), outputs
    flat = rows.flatten(1)
    turns = torch.linalg.lstsq(values, flat).solution
    turned = turns.reshape(values.shape[1], values.shape[1], -1).permute(2, 1, 0)
    return rows - (values @ turns).reshape(rows.shape), turned


def _rounded(count: float) -> int:
    """Up, to two digits."""
    power = 10 ** max(0, len(str(int(count))) - 2)
    return -int(-count // power) * power
