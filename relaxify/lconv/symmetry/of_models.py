"""The symmetries of a function from its gradients: the L with grad f(x) . L x = 0, or J(x) L x = L_c f(x), for all x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.algebras import closure_residual, orthonormal
from relaxify.lconv.symmetry.classical import LARGEST_CLOSURE_RESIDUAL
from relaxify.lconv.symmetry.subspaces import orthonormal_pair
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict, cut
from relaxify.modules.copies import copied
from relaxify.modules.evaluating import evaluating

# a direction of gl(d) that is broken less than this share of a random one may be a symmetry ...
LARGEST_DEFECT = 0.2

# ... if the next one is broken by this factor more
SMALLEST_GAP = 2.5

# what several directions may be broken more, if their brackets close and samples that they were not found on say the same
LENIENCE = 1.75

# equations to an unknown: with twice as many half of them find the null space, with fewer only what is kept nearly exactly
FEWEST_EQUATIONS = 2
NEARLY_EXACT = 0.02

# of unit length (L, L_c): those with less than this on the inputs turn outputs alone
SMALLEST_GENERATOR = 0.05

GRADIENTS = "leave out what ends gradients (detach, no_grad, numpy, rounding or comparison)"


def symmetries_of_model(
    f: Callable[[Tensor], Tensor],
    X: Tensor | npt.NDArray[Any],
    *,
    equivariant: bool = False,
    affine: bool = False,
    largest_defect: float = LARGEST_DEFECT,
    smallest_gap: float = SMALLEST_GAP,
) -> Symmetry:
    """The Lie algebra under which f is invariant, acting on the last axis of its inputs, from gradients at the samples X.

    Each sample says sum_m grad_m f . L x_m = 0, one equation on L for x of shape (m, d); the algebra is the null space of
    all of them. With `equivariant`, f(x) of shape (n, ..., c) may turn along: J(x) L x = L_c f(x), and L_c are the
    report's `output_generators`; with `affine` the rows of X are points, and generators act on (x, 1): (d + 1, d + 1).
    Samples are weighted alike whatever the size of their gradient. Half of them (three quarters, if they are few) find the
    algebra, the others measure its defect.

    A module is run as a copy in eval mode, and so are modules that a function f calls, if not as copies: nothing of them
    changes, and no sample has a say in another's output.

    A symmetry is found if directions are broken less than `largest_defect` of a random direction and the next ones
    `smallest_gap` times more, and if the brackets stay in the span; if there are several directions, then also if they are
    broken up to 1.75 times more than that, on other samples too. Each output of a sample is an equation: with fewer than
    four to an unknown only what is kept nearly exactly is found. ValueError for fewer than two, or an f that gives no
    finite gradient.

    >>> X = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    >>> symmetries_of_model(lambda x: x.square().sum(-1), X).name
    'so(3)'
    """
    X = _samples(X)
    run = copied(f).eval() if isinstance(f, nn.Module) else f
    points = _Points.of(X, affine)
    with evaluating(f):
        rows, c = _equations(lambda z: run(points.back(z)), points.forth(X), equivariant, affine)
    unknowns, d = rows.shape[2], X.shape[-1]
    equations = rows.shape[0] * rows.shape[1]
    if equations < FEWEST_EQUATIONS * unknowns:
        needed = -(-FEWEST_EQUATIONS * unknowns // rows.shape[1])
        raise ValueError(f"{len(X)} samples are too few for {unknowns} unknowns; pass at least {needed}.")
    few = equations < 2 * FEWEST_EQUATIONS * unknowns
    part = 3 * len(rows) // 4 if few else len(rows) // 2
    spectrum, directions = _null_space(rows[:part].flatten(0, 1))
    dimension = cut(spectrum, largest_defect, smallest_gap)
    likely = dimension or cut(spectrum, LENIENCE * largest_defect, smallest_gap)
    null = directions[:likely]
    generators = points.lift(null[:, : unknowns - c * c].reshape(likely, d, d + affine))
    outputs = None
    if equivariant:
        generators, outputs = orthonormal_pair(generators, null[:, unknowns - c * c :].reshape(-1, c, c), SMALLEST_GENERATOR)
    elif affine:
        generators = orthonormal(generators)
    defect = _defect(rows[part:].flatten(0, 1), null)
    verdict, reason = _judge(generators, spectrum, likely, None if dimension else defect, LENIENCE * largest_defect)
    found = verdict is Verdict.FOUND
    if few and found and max(float(spectrum[likely - 1]), defect or 0.0) > NEARLY_EXACT:
        verdict, reason = Verdict.TOO_FEW, f"{reason[:-1]}, but {equations} equations leave that open: pass more samples."
    kept = slice(None) if dimension or found else slice(0)
    return Symmetry(
        generators[kept],
        verdict,
        reason,
        "gradients of the model",
        spectrum,
        defect if dimension or found else None,
        output_generators=None if outputs is None else outputs[kept],
        frame=points.frame if affine else None,
    )


@dataclass(frozen=True, eq=False)
class _Points:
    """In affine mode z = (x - centre) / size, so that translations weigh as much as turns do; x itself otherwise."""

    centre: Tensor
    size: Tensor
    affine: bool

    @classmethod
    def of(cls, X: Tensor, affine: bool) -> _Points:
        rows = X.detach().reshape(-1, X.shape[-1])
        centre = rows.mean(0)
        size = (rows - centre).square().mean().sqrt().clamp(min=torch.finfo(rows.dtype).tiny)
        return cls(centre, size, affine)

    def forth(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.size if self.affine else x

    def back(self, z: Tensor) -> Tensor:
        return z * self.size + self.centre if self.affine else z

    @property
    def frame(self) -> Float[Tensor, "e e"]:
        d = len(self.centre)
        frame = torch.eye(d + 1, dtype=torch.float64)
        frame[:d, :d] *= self.size.double().cpu()
        frame[:d, d] = self.centre.double().cpu()
        return frame

    def lift(self, matrices: Float[Tensor, "k d e"]) -> Float[Tensor, "k e e"]:
        """From z to x, and to (x, 1) in affine mode."""
        if not self.affine:
            return matrices
        square = torch.nn.functional.pad(matrices, (0, 0, 0, 1))
        frame = self.frame.to(square)
        return frame @ square @ torch.linalg.inv(frame)


def _equations(
    f: Callable[[Tensor], Any], X: Tensor, equivariant: bool, affine: bool
) -> tuple[Float[Tensor, "samples outputs unknowns"], int]:
    """For each sample and output the coefficients of L (and of L_c), of norm about one, and the size of the latter."""
    x = X.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = _values(f, x)
        if not isinstance(y, Tensor) or not y.requires_grad or y.shape[:1] != X.shape[:1]:
            raise ValueError(_no_gradient(y, len(X)))
        out = y.reshape(len(X), -1)
        gradients = [torch.autograd.grad(column.sum(), x, retain_graph=True, materialize_grads=True)[0] for column in out.T]
    each = torch.stack(gradients, 1).double().reshape(len(X), out.shape[1], -1, X.shape[-1])
    inputs = X.detach().double().reshape(len(X), -1, X.shape[-1])
    if affine:
        inputs = torch.nn.functional.pad(inputs, (0, 1), value=1.0)
    rows = torch.einsum("naci,ncj->naij", each, inputs).flatten(2)
    c = y.shape[-1] if y.dim() > 1 else 1
    if equivariant:
        values = y.detach().double().reshape(len(X), -1, c)
        # row (k, a) of the output reads sum_b (L_c)_ab y_kb
        turned = torch.einsum("ab,nkd->nkabd", torch.eye(c, dtype=torch.float64), values)
        rows = torch.cat([rows, -turned.reshape(len(X), out.shape[1], c * c)], -1)
    size = rows.flatten(1).norm(dim=1)
    if not bool(size.isfinite().all()) or not bool((size > 0).any()):
        raise ValueError("the function has no finite gradient that is not zero at these samples; look at f and X.")
    # samples of nearly no gradient hold nothing but noise
    return rows / (size + 1e-3 * size.mean())[:, None, None], c if equivariant else 0


def _values(f: Callable[[Tensor], Any], x: Tensor) -> Any:
    try:
        # f may write to what it is given
        return f(x.clone())
    except (RuntimeError, TypeError) as error:
        if not _runs_without_gradients(f, x):
            raise
        raise ValueError(
            f"the function does not run on tensors with gradients ({str(error).splitlines()[0].rstrip('.')}); {GRADIENTS}."
        ) from error


def _runs_without_gradients(f: Callable[[Tensor], Any], x: Tensor) -> bool:
    try:
        f(x.detach().clone())
    except Exception:
        return False
    return True


def _samples(X: Tensor | npt.NDArray[Any]) -> Tensor:
    found = torch.as_tensor(X)
    if found.dim() < 2:
        raise ValueError(f"X has shape {tuple(found.shape)}; pass samples in rows, (n, d) or (n, vectors, d).")
    if not found.numel() or found.is_complex():
        what = "complex; pass real numbers." if found.is_complex() else "empty; pass samples in rows."
        raise ValueError(f"X has shape {tuple(found.shape)} and is {what}")
    return found if found.is_floating_point() else found.to(torch.get_default_dtype())


def _no_gradient(y: object, count: int) -> str:
    if not isinstance(y, Tensor):
        return f"the function returns a {type(y).__name__}; return a tensor, with one row for each of the {count} samples."
    if y.requires_grad:
        return f"the function returns shape {tuple(y.shape)} for {count} samples; return one row for each."
    return f"the function's output ({y.dtype}) has no gradient with respect to X; {GRADIENTS}."


def _null_space(rows: Float[Tensor, "equations unknowns"]) -> tuple[Tensor, Tensor]:
    """How much each direction is broken, ascending, relative to a random one, and the directions as rows."""
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    scale = values.square().mean().sqrt()
    return (values / scale).flip(0), vectors.flip(0)


def _defect(rows: Tensor, null: Tensor) -> float | None:
    if not len(null):
        return None
    random = rows.square().sum() / rows.shape[1]
    return float(((rows @ null.mT).square().sum(0).mean() / random).sqrt())


def _judge(
    generators: Tensor, spectrum: Tensor, dimension: int, doubtful: float | None, largest: float
) -> tuple[Verdict, str]:
    """`doubtful` is the defect on other samples of directions that are broken more than a symmetry's are as a rule."""
    least = f"every direction is broken: the least of them {float(spectrum[0]):.2g} of a random one, with no gap after it."
    if dimension == 0 or not len(generators):
        return Verdict.NONE, least
    residual = closure_residual(generators)
    kept = f"{dimension} directions are broken no more than {float(spectrum[dimension - 1]):.2g} of a random one"
    # one direction closes whatever it is
    if doubtful is not None and (dimension == 1 or doubtful > largest or residual > LARGEST_CLOSURE_RESIDUAL):
        return Verdict.NONE, least
    if residual > LARGEST_CLOSURE_RESIDUAL:
        return (
            Verdict.NONE,
            f"{kept}, but their brackets leave the span (residual {residual:.2g}), so they are not an algebra.",
        )
    return Verdict.FOUND, f"{kept}, and their brackets stay in the span."
