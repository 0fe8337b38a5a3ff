"""e3nn: o3.Linear and o3.FullyConnectedTensorProduct, for e3nn 0.4.4 and from 0.6 on.

Exact types only: `Gate.mul` and `Norm.tp` are TensorProducts too, without weights of their own to relax.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import Attribute, EquivariantMap, Path, Rejected, Site, commutation_error, probe
from scipy.linalg import logm
from torch import Tensor, nn


class E3nnAdapter:
    """Finds e3nn's equivariant linear layers."""

    name = "e3nn"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of an o3.Linear or o3.FullyConnectedTensorProduct, or why there is none."""
        # the library is imported only for its own modules, and then it is loaded already
        if not type(module).__module__.startswith("e3nn."):
            return
        from e3nn import o3

        build = {o3.Linear: _linear, o3.FullyConnectedTensorProduct: _tensor_product}.get(type(module))
        if build is None:
            return
        op = type(module).__name__
        if group.name not in ("SO(3)", "O(3)"):
            yield Rejected(path, op, f"e3nn's layers are equivariant under SO(3) or O(3), not {group.name}")
        elif reason := _unsupported(module):
            yield Rejected(path, op, reason)
        else:
            yield build(path, module, group)


def _unsupported(module: Any) -> str | None:
    if not module.internal_weights:
        return "its weights are inputs of the call, not parameters"
    if getattr(module, "weight_numel", 0) and module.weight.ndim != 1:
        return "it has several weights side by side (f_in, f_out); only one map per layer can be relaxed"
    return None


def _linear(path: str, module: Any, group: Group) -> Site:
    rep_in, rep_out = representation(group, module.irreps_in), representation(group, module.irreps_out)
    paths, offset = [], 0
    for instruction in module.instructions:
        if instruction.i_in == -1:
            continue
        paths.append(Path("weight", offset, instruction.i_in, instruction.i_out, float(instruction.path_weight)))
        offset += instruction.path_shape[0] * instruction.path_shape[1]
    map_ = EquivariantMap("e3nn", "o3.Linear", rep_in, rep_out, argument="features", paths=_expressible(paths))
    return Site(path, module, map_, functools.partial(_linear_error, module, map_))


def _linear_error(module: Any, map_: EquivariantMap) -> float:
    twin, x = probe(module), _random(module.irreps_in.dim)
    bias = twin(torch.zeros_like(x))
    return commutation_error(lambda rows: twin(rows) - bias, map_.rep_in, map_.rep_out, x)


def _tensor_product(path: str, module: Any, group: Group) -> Site:
    """A site from irreps_in1 to irreps_out.

    x1 -> w x1 (x) x2 is an intertwiner only where x2 is invariant: a path with one scalar of x2 has the map
    scale * x2_scalar * w (x) identity, so `fold` needs x2_scalar to be constant; it is measured in training.
    """
    rep_in, rep_out = representation(group, module.irreps_in1), representation(group, module.irreps_out)
    scalars = [i for i, (mul, ir) in enumerate(module.irreps_in2) if mul == 1 and ir.l == 0 and ir.p == 1]
    paths, offset = [], 0
    for instruction in module.instructions:
        if scalars and instruction.i_in2 == scalars[0] and instruction.has_weight:
            # the Clebsch-Gordan tensor of (l, 0, l) is the identity over sqrt(2l + 1)
            d = module.irreps_out[instruction.i_out].ir.dim
            scale = float(instruction.path_weight) / d**0.5
            paths.append(Path("weight", offset, instruction.i_in1, instruction.i_out, scale))
        if instruction.has_weight:
            offset += instruction.path_shape[0] * instruction.path_shape[1] * instruction.path_shape[2]
    column = module.irreps_in2.slices()[scalars[0]].start if scalars else 0
    map_ = EquivariantMap(
        "e3nn",
        "o3.FullyConnectedTensorProduct",
        rep_in,
        rep_out,
        argument="x",
        paths=_expressible(paths),
        unfoldable=None if paths else "its second input has no single scalar that could carry an intertwiner",
        attribute=Attribute(1, "y", column) if paths else None,
    )
    return Site(path, module, map_, functools.partial(_tensor_product_error, module, map_))


def _tensor_product_error(module: Any, map_: EquivariantMap) -> float:
    """Rotate both inputs at once: the product commutes with the direct sum of their representations."""
    twin, cut = probe(module), module.irreps_in1.dim
    both = map_.rep_in + representation(map_.group, module.irreps_in2)
    x = _random(both.dim)
    return commutation_error(lambda rows: twin(rows[..., :cut], rows[..., cut:]), both, map_.rep_out, x)


def _expressible(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.scale != 0)


def _random(size: int) -> Float[Tensor, "4 n"]:
    return torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def representation(group: Group, irreps: Any) -> Representation:
    """e3nn's irreps, in e3nn's own basis, as a representation of SO(3) or O(3)."""
    total = Representation(group, (), ())
    for mul, ir in irreps:
        action = so3_generators(ir.l)
        parity = ir.p * torch.eye(ir.dim, dtype=torch.float64)[None]
        total = total + Representation.of(group, str(ir), mul, torch.cat([action, parity[: len(group.finite)]]))
    return total


@functools.cache
def so3_generators(spin: int) -> Float[Tensor, "3 d d"]:
    """drho(J_x), drho(J_y), drho(J_z) in e3nn's basis, read off its Wigner matrices.

    log D(exp(sum_i c_i J_i)) = sum_i c_i drho(J_i) while the angle |c| * spin < pi; three vectors c in general position
    keep the Euler angles away from their poles. Only public functions are used: the private ones differ by version.
    """
    from e3nn import o3

    rotations = Group.parse("SO(3)").generators
    vectors = torch.tensor([[0.7, 0.4, 0.5], [-0.3, 0.8, 0.4], [0.5, -0.6, 0.6]], dtype=torch.float64) / max(spin, 1)
    wigner = o3.Irrep(spin, 1).D_from_matrix(torch.linalg.matrix_exp(torch.einsum("ki,iab->kab", vectors, rotations)))
    logs = torch.stack([torch.as_tensor(logm(d.numpy()).real) for d in wigner.to(torch.float64)])
    generators = torch.linalg.solve(vectors, logs.flatten(1)).unflatten(1, logs.shape[1:])
    return (generators - generators.mT) / 2


adapter = E3nnAdapter()
