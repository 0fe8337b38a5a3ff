"""Relaxed steerable convolutions over rotations, on escnn's bases, and networks of five of them for smoke.

After "Approximately Equivariant Networks for Imperfectly Symmetric Dynamics" (Wang, Walters and Yu, ICML 2022, arXiv
2201.11969), sec. 4.2; the bases are those of Weiler and Cesa (arXiv 1911.08251).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Unpack

import torch
from escnn import gspaces
from escnn import nn as enn
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.taps import tap_positions
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify_adapters.escnn_groups import NotASubgroupError, fibre_of
from relaxify_examples.models.relaxed_convolution import NoActionError, Options, PerTap, RelaxedConv, square
from relaxify_examples.models.relaxed_scale import MeanOverScales, RelaxedScaleConv, RepeatOverScales


class RelaxedSteerableConv(RelaxedConv):
    """K(x) = sum_b (w_b + v_b(x)) K_b(x), K_b escnn's basis of steerable kernels: K_b(g x) = rho_out(g) K_b(x) rho_in(g)^-1.

    For fields over C_n, of one kind on each side. `weights` are w, (fields out, fields in, b); `variation` is v, of each tap
    too. Departs from the published code, whose coefficients are random at each tap from the start on: v starts at 0, where
    the layer computes what escnn's does. Its kernels are steerable to rounding, not to float32 alone, under the
    rotations that move taps to taps.

    >>> gspace = gspaces.rot2dOnR2(4)
    >>> vectors = enn.FieldType(gspace, [gspace.irrep(1)] * 3)
    >>> RelaxedSteerableConv(vectors, enn.FieldType(gspace, [gspace.regular_repr]), 3)(torch.zeros(2, 6, 16, 16)).shape
    torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        in_type: enn.FieldType,
        out_type: enn.FieldType,
        kernel_size: int,
        **options: Unpack[Options],
    ) -> None:
        size = square(kernel_size)
        for field_type in (in_type, out_type):
            _check(field_type)
        super().__init__(
            (len(in_type), len(out_type)),
            _steerable_kernels(in_type, out_type, size, tap_positions(size)),
            _invariant(out_type.representations[0]),
            size=size,
            rule=PerTap(),
            **options,
        )
        self.in_type, self.out_type = in_type, out_type

    def sample(self, positions: Tensor) -> Tensor:
        return _steerable_kernels(self.in_type, self.out_type, self.size, positions)

    def representations(self, group: Group) -> tuple[Representation, Representation]:
        try:
            fibre = fibre_of(self.in_type.gspace, group)
        except NotASubgroupError as reason:
            raise NoActionError(str(reason)) from reason
        return fibre.representation(self.in_type), fibre.representation(self.out_type)

    def __getstate__(self) -> dict[str, Any]:
        """escnn's groups do not pickle: field types are kept as what they are made from."""
        return {**self.__dict__, "in_type": _recipe(self.in_type), "out_type": _recipe(self.out_type)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        types = {name: _from_recipe(*state[name]) for name in ("in_type", "out_type")}
        super().__setstate__({**state, **types})  # type: ignore[no-untyped-call]


def _check(field_type: enn.FieldType) -> None:
    """ValueError unless all fields are of one kind and over rotations."""
    gspace = field_type.gspace
    if gspace != gspaces.rot2dOnR2(gspace.fibergroup.order()):
        raise ValueError(f"{gspace} is not of the rotations C_n alone; pass fields over gspaces.rot2dOnR2(n).")
    names = sorted({rep.name for rep in field_type.representations})
    if len(names) != 1:
        raise ValueError(f"fields of the kinds {', '.join(names)} in one layer; give each kind a layer of its own.")


def _steerable_kernels(
    in_type: enn.FieldType, out_type: enn.FieldType, size: tuple[int, int], positions: Float[Tensor, "points 2"]
) -> Float[Tensor, "b d_out d_in points"]:
    """escnn's kernels between one field and another anywhere in the plane, of norm 1 on the taps, in float64.

    escnn computes them in float32: the mean of rho_out(g) K(g^-1 x) rho_in(g)^-1 is what is steerable to rounding.
    """
    try:
        (block,) = enn.R2Conv(in_type, out_type, size[0], bias=False, initialize=False).basisexpansion.children()
    except ValueError as reason:
        message = f"no kernel of size {size[0]} from {in_type} to {out_type} is steerable; pass a larger kernel_size."
        raise ValueError(message) from reason
    points = torch.cat([tap_positions(size), positions])
    turned = []
    for g in in_type.gspace.fibergroup.elements:
        matrix = torch.tensor(in_type.gspace.basespace_action(g)).double().round(decimals=12)
        # rows times a rotation are its inverse times columns
        kernels = block.basis.sample((points @ matrix).float())[:, block._mask].double()
        out, into = _matrix(out_type, g), torch.linalg.inv(_matrix(in_type, g))
        turned.append(torch.einsum("ao,pboi,ij->bajp", out, kernels, into))
    taps, elsewhere = torch.stack(turned).mean(0).split([size[0] * size[1], len(positions)], -1)
    return elsewhere / taps.flatten(1).norm(dim=1)[:, None, None, None]


def _matrix(field_type: enn.FieldType, g: Any) -> Float[Tensor, "d d"]:
    """rho(g) of one field, whose entries that are whole numbers are exactly so."""
    return torch.tensor(field_type.representations[0](g)).double().round(decimals=12)


def _invariant(rep: Any) -> Float[Tensor, "d n"]:
    """The vectors of a field that the group leaves alone, of the length of (1, 1, ...)."""
    columns, start = [torch.zeros(rep.size, 0, dtype=torch.float64)], 0
    for name in rep.irreps:
        irrep = rep.group.irrep(*name)
        if irrep.is_trivial():
            columns.append(torch.tensor(rep.change_of_basis[:, start : start + 1]).double() * rep.size**0.5)
        start += irrep.size
    return torch.cat(columns, 1).round(decimals=12)


def _recipe(field_type: enn.FieldType) -> tuple[int, str, int]:
    return field_type.gspace.fibergroup.order(), field_type.representations[0].name, len(field_type)


def _from_recipe(order: int, name: str, count: int) -> enn.FieldType:
    gspace = gspaces.rot2dOnR2(order)
    known = {rep.name: rep for rep in (gspace.regular_repr, *gspace.fibergroup.irreps())}
    return enn.FieldType(gspace, [known[name] if name in known else gspace.representations[name]] * count)


def steerable_net(
    symmetry: Literal["rotation", "scale"],
    *,
    frames: int,
    width: int,
    layers: int = 5,
    kernel_size: int = 3,
    relaxed: bool = True,
) -> nn.Sequential:
    """Velocity frames [batch, 2 * frames, h, w] -> the next one, [batch, 2, h, w], through `width` hidden fields and ReLUs.

    - "rotation": C_4; a velocity is a vector whose second component points up, towards row 0, and hidden fields are regular.
      On square images the net is equivariant to rounding while nothing varies.
    - "scale": a dilation moves a velocity and leaves its components alone; hidden fields have 3 scales a factor of sqrt(2)
      apart, and the mean over them is read. Each layer is equivariant under Scale(2); the net is not, as 2 of 3 scales go
      off the ladder's end: on smooth images enlarged by 2 its error is 0.2 to 0.9. Departs from the published code,
      which reads the finest scale alone, whose error is larger, and whose scales 1, 1.5, 2, 2.5 and kernels of one size
      no dilation carries into each other.

    Nothing varies without `relaxed`. ValueError for another symmetry or fewer than 2 layers.

    >>> steerable_net("rotation", frames=2, width=3)(torch.zeros(1, 4, 16, 16)).shape
    torch.Size([1, 2, 16, 16])
    """
    if layers < 2:
        raise ValueError(f"layers={layers}: one layer reads velocities and another writes them; pass 2 or more.")
    if symmetry == "rotation":
        return nn.Sequential(*_rotation_layers(frames, width, layers, kernel_size, relaxed))
    if symmetry == "scale":
        return nn.Sequential(*_scale_layers(frames, width, layers, kernel_size, relaxed))
    raise ValueError(f"symmetry {symmetry!r} is not known; pass 'rotation' or 'scale'.")


def _rotation_layers(frames: int, width: int, layers: int, kernel_size: int, relaxed: bool) -> Iterator[nn.Module]:
    gspace = gspaces.rot2dOnR2(4)
    hidden = [enn.FieldType(gspace, [gspace.regular_repr] * width)] * (layers - 1)
    into, out = (enn.FieldType(gspace, [gspace.irrep(1)] * count) for count in (frames, 1))
    yield RelaxedSteerableConv(into, hidden[0], kernel_size, relaxed=relaxed)
    for here, there in zip(hidden, [*hidden[1:], out], strict=True):
        yield nn.ReLU()
        yield RelaxedSteerableConv(here, there, kernel_size, relaxed=relaxed)


def _scale_layers(frames: int, width: int, layers: int, kernel_size: int, relaxed: bool) -> Iterator[nn.Module]:
    yield RepeatOverScales(3)
    yield RelaxedScaleConv(2 * frames, width, kernel_size, relaxed=relaxed)
    for count in [*[width] * (layers - 2), 2]:
        yield nn.ReLU()
        yield RelaxedScaleConv(width, count, kernel_size, relaxed=relaxed)
    yield MeanOverScales(3)
