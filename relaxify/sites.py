"""Site: one equivariant linear op found in a model, with all that relaxing, projecting and converting need to know of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution
from relaxify.groups import Group
from relaxify.representations import Representation

CHILD = "relaxation"
"""The name under which a term is a child of its site's module; checkpoint keys read `path.relaxation.weight`."""

HOLDER = "functional_"
"""A term of a functional op on the parameter `weight` hangs under `functional_weight` of the module that runs the op."""

ChannelOrder = Literal["in_out", "out_in"]


@dataclass(frozen=True)
class Features:
    """Where a feature vector sits in a tensor: its axes, outermost first, the last varying fastest.

    An axis counted from the front leaves room for those listed after it, because Vector Neurons, which move channels to
    the end, keep the vector axis at 2 of 4 or 5 axes and at 1 of 3.

    >>> Features((2, -1)).rows(torch.zeros(8, 100, 3, 21)).shape
    torch.Size([8, 100, 63])
    """

    axes: tuple[int, ...] = (-1,)

    def _positions(self, ndim: int) -> list[int]:
        room = range(len(self.axes), 0, -1)
        return [axis % ndim if axis < 0 else min(axis, ndim - after) for axis, after in zip(self.axes, room, strict=True)]

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "*rows n"]:
        """The feature vectors of x along the last axis."""
        if self.axes == (-1,):
            return x
        last = list(range(-len(self.axes), 0))
        return x.movedim(self._positions(x.ndim), last).flatten(-len(self.axes))

    def restore(self, rows: Float[Tensor, "*rows n"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The inverse of `rows`: feature vectors back in the shape of `like`."""
        if self.axes == (-1,):
            return rows
        positions = self._positions(like.ndim)
        sizes = [like.shape[axis] for axis in positions]
        return rows.unflatten(-1, sizes).movedim(list(range(-len(sizes), 0)), positions)


@dataclass(frozen=True)
class Path:
    """One block of the equivariant map: W_e[block_out, block_in] = scale * w (x) identity.

    w is the slice of the flat parameter that starts at `offset`, of shape (channels_in, channels_out) if `order` is
    `in_out`, else (channels_out, channels_in).
    """

    parameter: str
    offset: int
    block_in: int
    block_out: int
    scale: float = 1.0
    order: ChannelOrder = "in_out"


@dataclass(frozen=True)
class Attribute:
    """One feature of another argument of a module: `name` at `position`, its last axis's entry `column`."""

    position: int
    name: str
    column: int


@dataclass(frozen=True)
class EquivariantMap:
    """What a site computes: a linear map from `rep_in` to `rep_out`, found at `features_in` of the argument `argument`.

    `paths` say how the layer's own parameters express intertwiners (what `fold` may use); `unfoldable` says why they
    cannot. `attribute` is the scalar in a second argument that scales every path: constant in most models, so its
    constant is measured in training. `is_complete` says that the paths, applied to the argument, are all that is computed.
    `intercepts` names the parameters of a functional op in the module's forward.

    A `convolution` acts on patches, of which `rep_in` is the representation; `features_in` says then where the channels
    are. `interpolation` is the largest |L_A(K)| / |K| that its own equivariant kernels score, because the group does not
    map taps to taps; 0 where it does.
    """

    adapter: str
    op: str
    rep_in: Representation
    rep_out: Representation
    features_in: Features = Features()
    features_out: Features = Features()
    argument: str = "input"
    paths: tuple[Path, ...] = ()
    unfoldable: str | None = None
    attribute: Attribute | None = None
    is_complete: bool = False
    intercepts: tuple[str, ...] = ()
    convolution: Convolution | None = None
    interpolation: float = 0.0

    @property
    def group(self) -> Group:
        return self.rep_in.group

    @property
    def weight_shape(self) -> tuple[int, int]:
        """(n_out, n_in) of a dense term; a convolution in groups joins each output to the inputs of its group."""
        groups = 1 if self.convolution is None else self.convolution.groups
        return self.rep_out.dim, self.rep_in.dim // groups


@dataclass(frozen=True)
class Site:
    """One equivariant linear op in a model.

    `error` runs the numeric proof that the op commutes with its representations and returns the relative error in
    float64, which a plan keeps as `proof`; of sites with equal `structure`, if it is not None, only the first is proved.
    `aliases` are other modules that share this site's weight and so its term.
    """

    path: str
    module: nn.Module = field(repr=False)
    map: EquivariantMap
    error: Callable[[], float] = field(repr=False)
    evidence: str = "type"
    proof: float | None = None
    aliases: tuple[tuple[str, nn.Module], ...] = field(default=(), repr=False)
    structure: Hashable = field(default=None, repr=False)

    @property
    def holder(self) -> str | None:
        """The child of the module that holds the term of a functional op; None for a module's own term."""
        return HOLDER + self.map.intercepts[0].replace(".", "_") if self.map.intercepts else None

    @property
    def parameters(self) -> int:
        """Size of the op's own weights."""
        if self.map.intercepts:
            return sum(self.module.get_parameter(name).numel() for name in self.map.intercepts)
        return sum(parameter.numel() for parameter in self.module.parameters(recurse=False))

    @property
    def added_parameters(self) -> int:
        """Size of a dense term W."""
        return math.prod(self.map.weight_shape)


@dataclass(frozen=True)
class Rejected:
    """A candidate that is not relaxed, and why.

    `unsound`: it should be equivariant and is not. `spoilt`: it is downstream of what is not. `unknown`: the adapter cannot
    say, so evidence may.
    """

    path: str
    op: str
    reason: str
    unsound: bool = False
    unknown: bool = False
    spoilt: bool = False


def constants(module: nn.Module) -> dict[int, Any]:
    """A memo for copy.deepcopy: what a module computed with gradients and keeps, which torch does not copy, as values."""
    kept = [buffer for part in module.modules() for buffer in part._buffers.values() if buffer is not None]
    return {id(buffer): buffer.detach().clone() for buffer in kept if buffer.grad_fn is not None}


def probe(module: nn.Module, dtype: torch.dtype | None = torch.float64) -> nn.Module:
    """A copy to run numeric proofs on: in float64 (None: as it is), eval, without hooks and without a term."""
    twin = copy.deepcopy(module, constants(module))
    twin = twin.to("cpu", dtype).eval()
    for part in list(twin.modules()):
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        if CHILD in part._modules and getattr(vars(part).get("forward"), "__self__", None) is part._modules[CHILD]:
            del part.forward
        for name, child in list(part._modules.items()):
            if name == CHILD and callable(settle := getattr(child, "settle", None)):
                settle(part)
            if name == CHILD or (name.startswith(HOLDER) and child is not None and CHILD in child._modules):
                del part._modules[name]
    return twin


def commutation_error(
    function: Callable[[Tensor], Tensor],
    rep_in: Representation,
    rep_out: Representation,
    x: Float[Tensor, "..."],
    *,
    features_in: Features = Features(),
    features_out: Features = Features(),
    elements: int = 2,
) -> float:
    """max over random g of |f(rho_in(g) x) - rho_out(g) f(x)| / (|f(x) - f(0)| + |rho_out(g) f(x) - f(x)|), CR eq. 1.

    The denominator is the response of f, so that a constant output proves nothing: a function without response gives inf.
    """
    generator = torch.Generator().manual_seed(0)
    y, zero = function(x).detach(), function(torch.zeros_like(x)).detach()
    rows_in, rows_out = features_in.rows(x), features_out.rows(y)
    errors = []
    for _ in range(elements):
        g = rep_in.group.random(generator)
        moved = function(features_in.restore(rows_in @ rep_in.rho(g).mT, like=x)).detach()
        expected = features_out.restore(rows_out @ rep_out.rho(g).mT, like=y)
        response = float((y - zero).norm() + (expected - y).norm())
        errors.append(float((moved - expected).norm()) / response if response else float("inf"))
    # unlike the builtin, this max lets NaN through
    return float(torch.tensor(errors).max())
