"""What combinations of affine image flows are called: rotation about a point, translations, e(2), similarity, aff(2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.operators.images import FLOWS

# of a generator's own length: what is below is taken for noise
SMALLEST_PART = 0.15

# pixels: a centre nearer to the image's counts as that
SMALLEST_OFFSET = 1.0

LINEAR = {
    "rotation": [[[0.0, 1.0], [-1.0, 0.0]]],
    "scaling": [[[1.0, 0.0], [0.0, 1.0]]],
    "rotation + scaling": [[[0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    "sl(2)": [[[0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]],
    "gl(2)": [[[0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
}

WITH_TRANSLATIONS = {"": "translations", "rotation": "e(2)", "rotation + scaling": "similarity", "gl(2)": "aff(2)"}


def affine_name(coefficients: Float[Tensor, "k n"], names: tuple[str, ...], radius: float = 1.0) -> str:
    """The span of these combinations of named flows, in words. A turn of 1 moves the border of an image by `radius`.

    >>> affine_name(torch.eye(2), ("translation_y", "translation_x")), affine_name(torch.eye(1), ("rotation",))
    ('translations', 'rotation')
    """
    flows = torch.tensor([FLOWS[name] for name in names], dtype=torch.float64)
    rows = torch.einsum("kn,nab->kab", coefficients.double(), flows)
    linear, shifts = rows[:, :, :2] * radius, rows[:, :, 2]
    turning, translations = _split(linear, shifts)
    name = _linear_name(turning)
    if name is None:
        return ", ".join(_terms(row, names) for row in coefficients)
    if len(translations) == 2:
        return WITH_TRANSLATIONS.get(name, f"{name} + translations")
    parts = [name + _centre(rows, radius)] if name else []
    parts += [f"translation along ({float(y):.2f}, {float(x):.2f})" for y, x in translations]
    return " + ".join(parts)


def _split(linear: Tensor, shifts: Tensor) -> tuple[Float[Tensor, "j 2 2"], Float[Tensor, "i 2"]]:
    """A basis of the linear parts, and of the translations among the combinations."""
    scale = torch.cat([linear.flatten(1), shifts], 1).norm(dim=1).clamp(min=1e-300)
    linear, shifts = linear.flatten(1) / scale[:, None], shifts / scale[:, None]
    u, values, directions = torch.linalg.svd(linear, full_matrices=True)
    values = torch.nn.functional.pad(values, (0, len(u) - len(values)))
    moves = values > SMALLEST_PART
    translations = torch.nn.functional.normalize(u.mT[~moves] @ shifts, dim=1)
    return directions[: int(moves.sum())].reshape(-1, 2, 2), translations


def _linear_name(turning: Float[Tensor, "j 2 2"]) -> str | None:
    """The name of a span of 2 x 2 matrices; empty for none of them, None for one without a name."""
    if not len(turning):
        return ""
    for name, matrices in LINEAR.items():
        known = torch.nn.functional.normalize(torch.tensor(matrices, dtype=torch.float64).flatten(1), dim=1)
        if len(known) == len(turning):
            cosines = torch.linalg.svdvals(known @ turning.flatten(1).mT)
            if float(cosines.min()) > 1 - SMALLEST_PART**2:
                return name
    return None


def _centre(rows: Float[Tensor, "k 2 3"], radius: float) -> str:
    """Where a single turn or scaling has its fixed point, if not in the image's middle."""
    if len(rows) != 1:
        return ""
    y, x = (-torch.linalg.lstsq(rows[0, :, :2], rows[0, :, 2:]).solution[:, 0]).tolist()
    return f" about ({y:.1f}, {x:.1f})" if max(abs(y), abs(x)) > SMALLEST_OFFSET else ""


def _terms(row: Float[Tensor, " n"], names: tuple[str, ...]) -> str:
    return " ".join(f"{float(c):+.2f} {name}" for c, name in zip(row, names, strict=True) if abs(float(c)) > 0.05)
