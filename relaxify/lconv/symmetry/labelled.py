"""Labelled samples in the coordinates in which they are compared: of unit second moments, about their origin or centre."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from relaxify.lconv.symmetry.moments import roots
from relaxify.lconv.symmetry.rows import Kinds, copies
from relaxify.lconv.symmetry.tangent import all_matrices, tangent_matrices

LARGEST_DIMENSION = 32
FEWEST = 40
# more whole numbers, each of fewer samples, are counted or rounded ones, and no names of classes
MOST_CLASSES, SAMPLES_PER_CLASS = 64, 20


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples z = (x - centre) root^-1 of unit second moments, and labels of unit size (one-hot for classes).

    `lift` carries a generator on z, or on (z, 1), to one on x, or on (x, 1). `kinds` if some samples are copies of others,
    and `notes` is what a report says of the data.
    """

    z: Float[Tensor, "n vectors d"]
    y: Float[Tensor, "n c"]
    classes: bool
    affine: bool
    frame: Float[Tensor, "e e"]
    scale: Float[Tensor, " c"]
    kinds: Kinds | None = None
    notes: str = ""

    @property
    def independent(self) -> int:
        """How many samples are no copies, as far as means of them tell."""
        return len(self.z) if self.kinds is None else round(self.kinds.effective)

    def extended(self, z: Float[Tensor, "n vectors d"]) -> Float[Tensor, "n vectors e"]:
        """(z, 1) in affine mode."""
        return torch.nn.functional.pad(z, (0, 1), value=1.0) if self.affine else z

    def lift(self, matrices: Float[Tensor, "k d e"]) -> Float[Tensor, "k e e"]:
        """From z to x: root L root^-1."""
        square = torch.nn.functional.pad(matrices, (0, 0, 0, 1)) if self.affine else matrices
        return torch.linalg.solve(self.frame, self.frame @ square, left=False)

    def candidates(self) -> Float[Tensor, "k d e"]:
        """An orthonormal basis of the directions that can be asked about."""
        d = self.z.shape[-1]
        return all_matrices(d, d + 1) if self.affine else tangent_matrices(self.z.flatten(0, 1))


def labelled(X: Float[Tensor, "n *vectors d"], Y: Shaped[Tensor, "labelled *c"], *, affine: bool) -> Labelled:
    """ValueError for what cannot be asked about: see `symmetries_of_labels`."""
    _check(X, Y)
    x = X.double().reshape(len(X), -1, X.shape[-1])
    rows = x.flatten(0, 1)
    centre = rows.mean(0) if affine else torch.zeros_like(rows[0])
    root, inverse = roots((rows - centre).mT @ (rows - centre) / len(rows))
    y, classes = _targets(Y)
    scale = torch.ones_like(y[0]) if classes else y.std(0).clamp(min=1e-300)
    if not bool((y.std(0) > 0).any()):
        raise ValueError("all labels are the same, which any transformation leaves alone; pass labels that vary.")
    frame = root
    if affine:
        frame = torch.block_diag(root, torch.ones(1, 1).to(root))
        frame[:-1, -1] = centre
    kinds = copies(x, y)
    notes = [] if kinds is None else [kinds.words]
    if is_whole(Y) and not classes:
        notes.append(f"{len(torch.unique(Y)):,} whole numbers as labels are taken for numbers, and not for classes.")
    return Labelled((x - centre) @ inverse, y / scale, classes, affine, frame, scale, kinds, " ".join(notes))


def _check(X: Tensor, Y: Tensor) -> None:
    if X.dim() not in (2, 3):
        raise ValueError(f"X has shape {tuple(X.shape)}; pass (samples, d) or (samples, vectors, d).")
    if len(Y) != len(X):
        raise ValueError(f"X has {len(X)} samples and Y has {len(Y)}; pass one row for each in both.")
    if len(X) < FEWEST:
        raise ValueError(f"{len(X)} samples are too few to learn what labels say; pass at least {FEWEST}, better thousands.")
    if X.shape[-1] > LARGEST_DIMENSION:
        raise ValueError(
            f"X has {X.shape[-1]} dimensions, and what labels keep is looked for in all matrices of at most "
            f"{LARGEST_DIMENSION}; project X on fewer first."
        )
    for name, given in (("X", X), ("Y", Y)):
        if not bool(given.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite entries; drop or fix these samples.")


def is_whole(Y: Tensor) -> bool:
    """Whether labels are one whole number each."""
    return Y.dim() == 1 and not Y.is_floating_point()


def may_be_classes(count: int, samples: int) -> bool:
    """Whether so many different labels of so many samples may be the names of classes."""
    return count <= max(MOST_CLASSES, samples // SAMPLES_PER_CLASS)


def _targets(Y: Tensor) -> tuple[Float[Tensor, "n c"], bool]:
    """Integers (n,) are classes, as one-hot rows, but for many of few samples; everything else is a number or a vector."""
    if is_whole(Y):
        classes, found = torch.unique(Y, return_inverse=True)
        if may_be_classes(len(classes), len(Y)):
            return torch.nn.functional.one_hot(found).double(), True
    return Y.double().reshape(len(Y), -1), False
