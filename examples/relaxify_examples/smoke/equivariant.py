"""Exactly equivariant convolutions, for the networks that add something to them that is not."""

from __future__ import annotations

from typing import Literal

from torch import nn

from relaxify_examples.smoke.generation import Symmetry

Kind = Literal["velocity", "hidden"]
Between = tuple[Kind, Kind]

# Channels of a hidden field: the elements of C(4), or the scales of the ladder.
ELEMENTS: dict[Symmetry, int] = {"rotation": 4, "scale": 3}


def steered(symmetry: Symmetry, kinds: Between, fields: tuple[int, int], kernel_size: int) -> nn.Module:
    """An equivariant convolution that keeps the picture's size, between fields of these kinds, so many on either side.

    rotation: velocities are vectors, hidden fields regular. scale: velocities enter the same at all scales, and leave as
    the mean over them.

    >>> import torch
    >>> steered("scale", ("velocity", "hidden"), (10, 2), 3)(torch.zeros(1, 20, 8, 8)).shape
    torch.Size([1, 6, 8, 8])
    """
    return _turned(kinds, fields, kernel_size) if symmetry == "rotation" else _scaled(kinds, fields, kernel_size)


def _turned(kinds: Between, fields: tuple[int, int], kernel_size: int) -> nn.Module:
    from escnn import gspaces
    from escnn.nn import FieldType

    from relaxify_examples.models.relaxed_steerable import RelaxedSteerableConv

    space = gspaces.rot2dOnR2(ELEMENTS["rotation"])
    of = {"velocity": space.irrep(1), "hidden": space.regular_repr}
    into, out = (FieldType(space, [of[kind]] * count) for kind, count in zip(kinds, fields, strict=True))
    return RelaxedSteerableConv(into, out, kernel_size, relaxed=False)


def _scaled(kinds: Between, fields: tuple[int, int], kernel_size: int) -> nn.Module:
    from relaxify_examples.models.relaxed_scale import MeanOverScales, RelaxedScaleConv, RepeatOverScales

    scales = ELEMENTS["scale"]
    # the two components of a velocity are two fields
    into, out = (2 * count if kind == "velocity" else count for kind, count in zip(kinds, fields, strict=True))
    first = [RepeatOverScales(scales)] if kinds[0] == "velocity" else []
    last = [MeanOverScales(scales)] if kinds[1] == "velocity" else []
    return nn.Sequential(*first, RelaxedScaleConv(into, out, kernel_size, scales=scales, relaxed=False), *last)
