"""e3nn: o3.Linear, o3.FullyConnectedTensorProduct and o3.TensorProduct, for e3nn 0.4.4 and from 0.6 on.

`Gate.mul` and `Norm.tp` are tensor products too, without weights of their own to relax. Subclasses are taken that compute
the same.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.groups import Group
from relaxify.modules.hanging import probe
from relaxify.proof import commutation_error, generic_input, generic_twin, structure
from relaxify.representations import Representation
from relaxify.sites import Attribute, EquivariantMap, Path, Rejected, Site

_NO_SCALAR = "no path with weights for all pairs of channels goes through a single scalar of its second input"


class E3nnAdapter:
    """Finds e3nn's equivariant linear layers."""

    name = "e3nn"

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The site of an o3.Linear or of a tensor product with weights, or why there is none."""
        # a model with one of its layers has loaded the library
        o3 = sys.modules.get("e3nn.o3")
        if o3 is None:
            return
        builders = {o3.Linear: _linear, o3.FullyConnectedTensorProduct: _tensor_product}
        kind = next((kind for kind in builders if isinstance(module, kind) or _is_script_of(module, kind)), None)
        if kind is None and type(module) is o3.TensorProduct and module.weight_numel:
            kind, builders = o3.TensorProduct, {o3.TensorProduct: _tensor_product}
        if kind is None:
            return
        op = f"o3.{kind.__name__}"
        if group.name not in ("SO(3)", "O(3)"):
            yield Rejected(path, op, f"e3nn's layers are equivariant under SO(3) or O(3), not {group.name}")
        elif reason := _unsupported(module, kind):
            yield Rejected(path, op, reason)
        else:
            yield builders[kind](path, module, group)


def _is_script_of(module: nn.Module, kind: type) -> bool:
    return (
        isinstance(module, torch.jit.ScriptModule)
        and module.original_name == kind.__name__
        and hasattr(module, "output_mask")
    )


def _unsupported(module: Any, kind: Any) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module, which takes no hooks; relax the model before scripting it"
    if not module.weight_numel:
        return "it has no weights: no path joins its input to its output"
    if not module.internal_weights:
        return "its weights are inputs of the call, not parameters"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if not _computes_the_same(module, kind):
        return f"{type(module).__name__} is a subclass, which computes something else"
    if module.weight.ndim != 1:
        return "it has several weights side by side (f_in, f_out); only one map per layer can be relaxed"
    return None


def _computes_the_same(module: Any, kind: Any) -> bool:
    """Whether a subclass's forward is that of its kind, as written or on random weights and inputs."""
    if type(module).forward is kind.forward:
        return True
    irreps = [getattr(module, name) for name in ("irreps_in", "irreps_in1", "irreps_in2") if hasattr(module, name)]
    twin, inputs = _twin(module), [generic_input(4, each.dim) for each in irreps]
    try:
        return torch.allclose(twin(*inputs), kind.forward(twin, *inputs))
    except Exception:
        # a forward of its own may want anything
        return False


def _linear(path: str, module: Any, group: Group) -> Site:
    rep_in, rep_out = representation(group, module.irreps_in), representation(group, module.irreps_out)
    paths, offset = [], 0
    for instruction in module.instructions:
        if instruction.i_in == -1:  # a bias
            continue
        paths.append(Path("weight", offset, instruction.i_in, instruction.i_out, float(instruction.path_weight)))
        offset += instruction.path_shape[0] * instruction.path_shape[1]
    map_ = EquivariantMap(
        "e3nn",
        "o3.Linear",
        rep_in,
        rep_out,
        argument="features",
        paths=tuple(paths),
        is_complete=len(paths) == len(module.instructions),
    )
    return Site(path, module, map_, functools.partial(_linear_error, module, map_), structure=structure(module))


def _linear_error(module: Any, map_: EquivariantMap) -> float:
    twin, x = _twin(module), generic_input(4, map_.rep_in.dim)
    bias = twin(torch.zeros_like(x))
    return commutation_error(lambda rows: twin(rows) - bias, map_.rep_in, map_.rep_out, x)


def _tensor_product(path: str, module: Any, group: Group) -> Site:
    """A site from irreps_in1 to irreps_out.

    x1 -> w x1 (x) x2 is an intertwiner only where x2 is invariant: a path with one scalar of x2 has the map
    scale * x2_scalar * w (x) identity, so `fold` needs x2_scalar to be constant; it is measured in training.
    """
    rep_in, rep_out = representation(group, module.irreps_in1), representation(group, module.irreps_out)
    scalars = [i for i, (mul, ir) in enumerate(module.irreps_in2) if mul == 1 and ir.is_scalar()]
    paths, offset = [], 0
    for instruction in module.instructions:
        if not instruction.has_weight:
            continue
        if scalars and instruction.i_in2 == scalars[0] and instruction.path_weight and instruction.connection_mode == "uvw":
            # the Clebsch-Gordan tensor of (l, 0, l) is the identity over sqrt(2l + 1)
            d = module.irreps_out[instruction.i_out].ir.dim
            scale = float(instruction.path_weight) / d**0.5
            paths.append(Path("weight", offset, instruction.i_in1, instruction.i_out, scale))
        offset += math.prod(instruction.path_shape)
    map_ = EquivariantMap(
        "e3nn",
        f"o3.{type(module).__name__}",
        rep_in,
        rep_out,
        argument="x",
        paths=tuple(paths),
        unfoldable=None if paths else _NO_SCALAR,
        attribute=Attribute(1, "y", module.irreps_in2.slices()[scalars[0]].start) if paths else None,
    )
    return Site(path, module, map_, functools.partial(_tensor_product_error, module, map_), structure=structure(module))


def _tensor_product_error(module: Any, map_: EquivariantMap) -> float:
    """Rotate both inputs at once: the product commutes with the direct sum of their representations."""
    twin, cut = _twin(module), map_.rep_in.dim
    both = map_.rep_in + representation(map_.group, module.irreps_in2)
    return commutation_error(
        lambda rows: twin(rows[..., :cut], rows[..., cut:]), both, map_.rep_out, generic_input(4, both.dim)
    )


def _twin(module: Any) -> nn.Module:
    """A generic twin. e3nn's own copies pickle the code that it generates, which would be most of a plan's time."""
    generated = vars(module).get("__codegen__", ())
    shell = object.__new__(type(module))
    rest = {name: child for name, child in module._modules.items() if name not in generated}
    vars(shell).update(vars(module), _modules=rest, __codegen__=[])
    twin = generic_twin(shell)
    for name in generated:
        twin.add_module(name, probe(module._modules[name]))
    return twin


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
    """drho(J_x), drho(J_y), drho(J_z) in e3nn's basis, in float64.

    Up to a factor they are the only intertwiner of 1 (x) l -> l, e3nn's 3j symbol: |J|^2 = l(l+1)(2l+1) gives its size,
    [J_x, J_y] = J_z its sign, which differs by version. e3nn's Wigner matrices are exact in torch's default dtype only.

    >>> so3_generators(1)[2].round().int()
    tensor([[ 0, -1,  0],
            [ 1,  0,  0],
            [ 0,  0,  0]], dtype=torch.int32)
    """
    from e3nn import o3

    if spin == 0:
        return torch.zeros(3, 1, 1, dtype=torch.float64)
    generators = (spin * (spin + 1) * (2 * spin + 1)) ** 0.5 * o3.wigner_3j(1, spin, spin, dtype=torch.float64)
    x, y, z = (generators - generators.mT) / 2
    return torch.stack([x, y, z]) * (x @ y - y @ x).mul(z).sum().sign()


adapter = E3nnAdapter()
