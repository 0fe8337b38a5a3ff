"""Algebras by their names: matrices of so(n), so(p,q), sl(n), sp(n), u(n), su(n), gl(n), e(n), sim(n), t(n), and of sums."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.groups import Group

LARGEST_BY_NAME = 64


def named(name: str, d: int) -> Float[Tensor, "n d d"]:
    """The algebra of a name, or of a sum of names, on R^d: each on coordinates of its own, in turn, and scaling on all.

    One that fits several times is repeated: so(3) on R^6 turns two vectors together; otherwise what coordinates are left
    stay as they are: so(3) on R^5. ValueError for larger ones, and for names that do not say how they act.

    >>> named("so(3) + scaling", 3).shape, named("so(3) + so(2)", 5).shape, named("so(3)", 6).shape
    (torch.Size([4, 3, 3]), torch.Size([4, 5, 5]), torch.Size([3, 6, 6]))
    >>> named("so(2) + ignored(1)", 3).shape, named("similarity", 3).shape
    (torch.Size([4, 3, 3]), torch.Size([4, 3, 3]))
    """
    parts = [part.strip() for part in name.lower().replace("similarity", f"sim({d - 1})").split("+")]
    if unseen := re.fullmatch(r"ignored\((\d+)\)", parts[-1]):
        return _with_ignored(" + ".join(parts[:-1]), int(unseen[1]), d)
    if any(part.startswith("abelian") for part in parts):
        raise ValueError(f"{name!r} names no algebra that acts in one known way: it says that all commute; give matrices.")
    known = [_by_name(part) for part in parts if part != "scaling"]
    sizes = [matrices.shape[-1] for matrices in known]
    copies = max(1, d // sizes[0]) if len(sizes) == 1 and d % sizes[0] == 0 else 1
    of_points = re.search(r"\b(e|sim|t)\(", name.lower()) is not None
    if sum(sizes) > d or (of_points and sum(sizes) * copies != d):
        raise ValueError(f"{name} acts on {sum(sizes)} dimensions, and there are {d}; name one that fits, or a sum.")
    found, begin = [torch.zeros(0, d, d, dtype=torch.float64)], 0
    for matrices, size in zip(known, sizes, strict=True):
        repeated = torch.stack([torch.block_diag(*[matrix] * copies) for matrix in matrices])
        end = d - begin - size * copies
        found.append(torch.nn.functional.pad(repeated, (begin, end, begin, end)))
        begin += size * copies
    if "scaling" in parts:
        found.append(torch.eye(d, dtype=torch.float64)[None])
    return torch.cat(found)


def _with_ignored(name: str, k: int, d: int) -> Float[Tensor, "n d d"]:
    """What the name says of the first d - k coordinates, and all matrices that reach only the last k."""
    if not 0 < k <= d:
        raise ValueError(f"{k} of {d} dimensions cannot be ignored; name fewer.")
    free = _units(d, [(d - k + i, j) for i in range(k) for j in range(d)])
    if not name:
        return free
    return torch.cat([torch.nn.functional.pad(named(name, d - k), (0, k, 0, k)), free])


def _by_name(name: str) -> Float[Tensor, "n d d"]:
    match = re.fullmatch(r"(so|sl|sp|su|gl|u|e|sim|t)\((\d+)(?:,(\d+))?\)", name.replace(" ", ""))
    sizes = [int(size) for size in match.groups()[1:] if size] if match else []
    kind = match[1] if match else ""
    is_known = sizes and 1 <= sum(sizes) <= LARGEST_BY_NAME and (len(sizes) == 1 or kind == "so")
    if not is_known or (kind == "sp" and sizes[0] % 2):
        with suppress(ValueError):
            if len(found := Group.parse(name).generators):
                return found
        raise ValueError(
            f"{name!r} names no algebra that acts in one known way; known are so(n), so(p,q), sl(n), sp(2n), u(n), su(n), "
            "gl(n), e(n), sim(n), t(n), scaling, ignored(n), and sums such as so(3) + so(2)."
        )
    n = sizes[0]
    makers: dict[str, Callable[[], Tensor]] = {
        "so": lambda: _orthogonal(*sizes) if len(sizes) > 1 else _orthogonal(0, n),
        "sl": lambda: _special_linear(n),
        "sp": lambda: _symplectic(n // 2),
        "su": lambda: _unitary(n, special=True),
        "gl": lambda: _general_linear(n),
        "u": lambda: _unitary(n),
        "e": lambda: _euclidean(n),
        "sim": lambda: _similarity(n),
        "t": lambda: _euclidean(n)[-n:],
    }
    return makers[kind]()


def catalogue(dimension: int) -> Iterator[tuple[str, int, Callable[[], Tensor]]]:
    """(name, dimension, matrices) of the classical algebras of up to a dimension."""
    for n in range(2, dimension + 2):
        if n * (n - 1) // 2 == dimension:
            for p in range(n // 2 + 1):
                name = f"so({n})" if p == 0 else f"so({p},{n - p})"
                yield name, dimension, functools.partial(_orthogonal, p, n - p)
        yield f"sl({n})", n * n - 1, functools.partial(_special_linear, n)
        yield f"sp({2 * n - 2})", (n - 1) * (2 * n - 1), functools.partial(_symplectic, n - 1)
        yield f"u({n})", n * n, functools.partial(_unitary, n)
        yield f"su({n})", n * n - 1, functools.partial(_unitary, n, special=True)
        yield f"gl({n})", n * n, functools.partial(_general_linear, n)
        yield f"e({n})", n * (n + 1) // 2, functools.partial(_euclidean, n)
        yield f"sim({n})", n * (n + 1) // 2 + 1, functools.partial(_similarity, n)


def _units(n: int, pairs: list[tuple[int, int]]) -> Tensor:
    matrices = torch.zeros(len(pairs), n, n, dtype=torch.float64)
    for matrix, (i, j) in zip(matrices, pairs, strict=True):
        matrix[i, j] = 1.0
    return matrices


def _orthogonal(p: int, q: int) -> Float[Tensor, "n d d"]:
    pairs = [(i, j) for i in range(p + q) for j in range(i)]
    upper = _units(p + q, pairs)
    metric = torch.diag(torch.tensor([-1.0] * p + [1.0] * q, dtype=torch.float64))
    return (upper - upper.mT) @ metric


def _general_linear(n: int) -> Float[Tensor, "n d d"]:
    return _units(n, [(i, j) for i in range(n) for j in range(n)])


def _special_linear(n: int) -> Float[Tensor, "n d d"]:
    off = _units(n, [(i, j) for i in range(n) for j in range(n) if i != j])
    diagonal = _units(n, [(i, i) for i in range(n)])
    return torch.cat([off, diagonal[:-1] - diagonal[1:]])


def _symplectic(n: int) -> Float[Tensor, "n d d"]:
    """J S for symmetric S."""
    pairs = [(i, j) for i in range(2 * n) for j in range(i + 1)]
    symmetric = _units(2 * n, pairs)
    eye = torch.eye(n, dtype=torch.float64)
    form = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), eye)
    return form @ (symmetric + symmetric.mT)


def _unitary(n: int, *, special: bool = False) -> Float[Tensor, "n d d"]:
    """Antihermitian A + iB as real matrices [[A, -B], [B, A]]."""
    lower = _units(n, [(i, j) for i in range(n) for j in range(i)])
    diagonal = _units(n, [(i, i) for i in range(n)])
    imaginary = torch.cat([lower + lower.mT, diagonal[:-1] - diagonal[1:] if special else diagonal])
    one, i = torch.eye(2, dtype=torch.float64), torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    real = [torch.kron(one, a) for a in lower - lower.mT]
    return torch.stack([*real, *(torch.kron(i, b) for b in imaginary)])


def _euclidean(n: int) -> Float[Tensor, "n d d"]:
    """Rotations and translations of (x, 1)."""
    rotations = torch.nn.functional.pad(_orthogonal(0, n), (0, 1, 0, 1))
    return torch.cat([rotations, _units(n + 1, [(i, n) for i in range(n)])])


def _similarity(n: int) -> Float[Tensor, "n d d"]:
    """Those and scaling of x."""
    return torch.cat([_euclidean(n), _units(n + 1, [(i, i) for i in range(n)]).sum(0)[None]])
