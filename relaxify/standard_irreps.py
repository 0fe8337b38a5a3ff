"""Standard irreducible representations of the named groups, as real matrices, by label.

The bases are fixed by the generators alone; adapters that know a library's own basis read it from that library instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from relaxify.algebras import brackets
from relaxify.groups import Group
from relaxify.representations import Layout, Representation


def irreps(group: Group | str, spec: str, layout: Layout = "channel_major") -> Representation:
    """A direct sum of standard representations, written as e3nn writes irreps: "8x0e+4x1o".

    Labels: `l` for SO(3) (spin), `le`/`lo` for O(3) (spin and parity), `k` for SO(2) and C(n) (frequency), `0e`/`0o`/`k`
    for O(2) and D(n) (trivial, determinant, frequency), `trivial`/`sign`/`vector` for S(n); `trivial`, `vector` (the
    defining representation) and `adjoint` for every group. `layout` says whether the components of a channel lie side by
    side (`channel_major`, as e3nn has them) or the channels of a component (`component_major`, as Vector Neurons do).
    ValueError for an unknown group, or a label that it does not have.

    >>> rep = irreps("O(3)", "8x0e+4x1o")
    >>> str(rep), rep.dim
    ('8x0e+4x1o', 20)
    >>> str(irreps("D(4)", "0e+0o+2x1+2").group), irreps("S(5)", "3xvector").dim
    ("Group('D(4)')", 15)
    """
    group = Group.parse(group)
    total = Representation(group, (), ())
    for term in spec.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d+)x)?(\w+)", term)
        if match is None:
            raise ValueError(f"cannot read {term!r} in the representation {spec!r}; write for example '8x0e+4x1o'.")
        total = total + Representation.of(group, match[2], int(match[1] or 1), _action(group, match[2]), layout)
    return total


def _action(group: Group, label: str) -> Float[Tensor, "actions d d"]:
    if label == "trivial":
        return Representation.trivial(group).actions[0]
    if label == "vector":
        return Representation.defining(group).actions[0]
    if label == "adjoint":
        return _adjoint(group)
    family = group.name.split("(")[0] if group.name not in ("SO(3)", "O(3)", "SO(2)", "O(2)") else group.name
    action = _FAMILIES[family](group, label) if family in _FAMILIES else None
    if action is None:
        raise ValueError(f"{group.name} has no representation labelled {label!r}; see help(relaxify.irreps) for its labels.")
    return action


def _adjoint(group: Group) -> Float[Tensor, "actions d d"]:
    """ad(A) X = [A, X] and Ad(g) X = g X g^-1 in the basis of the generators."""
    basis = group.generators.flatten(1).mT
    if not basis.shape[1]:
        raise ValueError(f"{group.name} is finite: it has no Lie algebra and so no adjoint representation.")
    inverse = torch.linalg.pinv(basis)
    conjugates = [g @ group.generators @ torch.linalg.inv(g) for g in group.finite]
    return torch.stack([inverse @ image.flatten(1).mT for image in (*brackets(group.generators), *conjugates)])


def _spin(group: Group, label: str) -> Float[Tensor, "actions d d"] | None:
    """Spin l of SO(3), or of O(3) with a parity: the inversion is its only finite generator."""
    match = re.fullmatch(r"(\d+)" + "([eo])" * len(group.finite), label)
    if match is None:
        return None
    generators = _so3_generators(int(match[1]))
    inversion = torch.eye(generators.shape[-1], dtype=torch.float64) * (-1.0 if label.endswith("o") else 1.0)
    return torch.cat([generators, inversion.expand(len(group.finite), -1, -1)])


def _so3_generators(spin: int) -> Float[Tensor, "3 d d"]:
    """drho(J_x), drho(J_y), drho(J_z) on real spherical harmonics of degree `spin`, ordered m = -l .. l."""
    m = torch.arange(-spin, spin + 1, dtype=torch.float64)
    raising = torch.diag(torch.sqrt(spin * (spin + 1) - m[:-1] * (m[:-1] + 1)), -1).to(torch.complex128)
    x, y = (raising + raising.mH) / 2, (raising - raising.mH) / 2j
    to_real = _real_from_complex(spin)
    hermitian = torch.stack([x, y, torch.diag(m).to(torch.complex128)])
    return (to_real @ (-1j * hermitian) @ to_real.mH).real


def _real_from_complex(spin: int) -> Complex[Tensor, "d d"]:
    """The unitary that takes complex spherical harmonics (Condon-Shortley) to real ones."""
    q, root = torch.zeros(2 * spin + 1, 2 * spin + 1, dtype=torch.complex128), math.sqrt(0.5)
    q[spin, spin] = 1
    for m in range(1, spin + 1):
        sign = (-1) ** m
        rows = [[1j * root, -1j * sign * root], [root, sign * root]]
        q[[[spin - m], [spin + m]], [spin - m, spin + m]] = torch.tensor(rows, dtype=torch.complex128)
    return q.conj()


def _frequency(group: Group, label: str) -> Float[Tensor, "actions d d"] | None:
    """Frequency k: the plane turned k times as fast; the reflection stays what it is.

    Of C(n) and D(n), the generating rotation by 2 pi k / n; its real 1-d form where that is +-1.
    """
    if label in ("0e", "0o", "0"):
        return _character(group, label)
    if re.fullmatch(r"\d+", label) is None:
        return None
    k = int(label)
    if len(group.generators):
        return torch.cat([k * group.generators, group.finite])
    n = int(group.name.split("(")[1].rstrip(")"))
    if not 0 < k <= n / 2:
        return None
    if 2 * k == n:
        return torch.tensor([-1.0, 1.0], dtype=torch.float64)[: group.actions, None, None]
    return torch.cat([torch.linalg.matrix_power(group.finite[:1], k), group.finite[1:]])


def _character(group: Group, label: str) -> Float[Tensor, "actions 1 1"]:
    """0e (or 0) is trivial; 0o is the determinant."""
    lie = torch.zeros(len(group.generators), 1, 1, dtype=torch.float64)
    sign = torch.linalg.det(group.finite)[:, None, None]
    return torch.cat([lie, sign if label == "0o" else torch.ones_like(sign)])


_FAMILIES: dict[str, Callable[[Group, str], Tensor | None]] = {
    "SO(3)": _spin,
    "O(3)": _spin,
    "SO(2)": _frequency,
    "O(2)": _frequency,
    "C": _frequency,
    "D": _frequency,
    "S": lambda group, label: _character(group, "0o") if label == "sign" else None,
}
