"""Inputs that carry irreps: features that the user names, moved by the matrices rho(g) of a representation.

A model's inputs are named as in its forward, and so are their parts: "x", "data.x". Irreps of SO(3) and O(3) are e3nn's, in
e3nn's basis, where those of degree 1 are vectors (x, y, z).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.elements import element_of
from relaxify.graph.inputs import Inputs, map_tensors, tensors_of
from relaxify.grids.pixels import acts_on_grid, is_image
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import Features
from relaxify.standard_irreps import irreps

IrrepsOf = Mapping[str, Any]
"""By the names of inputs: irreps such as "8x0e+8x1o", e3nn's or relaxify's own, or escnn's field types."""


@dataclass(frozen=True)
class Carried:
    """A representation of n dimensions on one axis of an input: g -> rho(g)."""

    axis: int
    size: int
    matrix: Callable[[Float[Tensor, "d d"]], Float[Tensor, "n n"]]

    def move(self, g: Float[Tensor, "d d"], tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return Features((self.axis,)).apply(self.matrix(g).to(tensor), tensor)


@dataclass(frozen=True)
class MoveFeatures:
    """(g, inputs) -> inputs whose features are moved by rho(g); the others as by `others`, which moves all pixels."""

    features: Mapping[str, Carried]
    others: Callable[[Tensor, Any], Any]

    def __call__(self, g: Float[Tensor, "d d"], inputs: Inputs) -> Inputs:
        def move(name: str, tensor: Tensor) -> Tensor:
            return self.features[name].move(g, tensor) if name in self.features else tensor

        moved: Inputs = map_tensors(move, self.others(g, inputs))
        return moved


def features_of(model: nn.Module, group: Group, inputs: Inputs, named: IrrepsOf) -> dict[str, Carried]:
    """What each named input carries. ValueError for a name that no input has, irreps that are none, and wrong sizes."""
    if not isinstance(named, Mapping):
        raise ValueError(f"input_irreps={named!r} names no input; pass a dict such as {{'x': '8x0e+8x1o'}}.")
    tensors, names = dict(tensors_of(inputs)), dict(_names(model, inputs))
    found = {}
    for name, given in named.items():
        if name not in names:
            raise ValueError(
                f"input_irreps names {name!r}, which is no tensor among the arguments of forward; these are "
                f"{', '.join(names) or 'none'}."
            )
        found[names[name]] = _carried(group, name, given, tensors[names[name]])
    return found


def _names(model: nn.Module, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """How forward calls each tensor, and how `tensors_of` does."""
    arguments: dict[str, str] = {}
    if isinstance(inputs, tuple):
        with_positions = inspect.signature(model.forward).parameters.values()
        single = [each.name for each in with_positions if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        arguments = {str(position): name for position, name in enumerate(single)}
    for name, _ in tensors_of(inputs):
        first, *parts = name.split(".")[1:]
        yield ".".join([arguments.get(first, first), *parts]), name


def _carried(group: Group, name: str, given: Any, tensor: Tensor) -> Carried:
    on_pixels = is_image(tensor) and (acts_on_grid(group) or hasattr(given, "gspace"))
    try:
        size, matrix = _representation(group.of_features, given)
    except ValueError as error:
        raise ValueError(f"input_irreps of {name!r}: {error}") from error
    carried = Carried(1 if on_pixels else -1, size, matrix if group.of_features == group else _of_linear_part(matrix))
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} is {tensor.dtype} and carries no irreps; pass floating-point features.".replace("torch.", "")
        )
    if not shape or shape[carried.axis] != size:
        raise ValueError(
            f"{name} has shape {shape}, but {given} has {size} components, on axis {carried.axis}; pass irreps of that size."
        )
    return carried


def _representation(group: Group, given: Any) -> tuple[int, Callable[[Tensor], Tensor]]:
    """The size of a representation, and g -> rho(g)."""
    if isinstance(given, Representation):
        return given.dim, lambda g: given.rho(element_of(given.group, g))
    if hasattr(given, "gspace") and hasattr(given, "representations"):
        return int(given.size), lambda g: of_field_type(given, g)
    notation = str(given)
    if group.name not in ("SO(3)", "O(3)"):
        own = irreps(group, notation)
        return own.dim, lambda g: own.rho(element_of(group, g))
    # in e3nn's basis a vector is of degree 1; and it writes parities for SO(3) too
    notation = notation.replace("vector", "1o")
    spatial = irreps(group, re.sub(r"(\d)[eo]\b", r"\1", notation) if group.name == "SO(3)" else notation)
    return spatial.dim, lambda g: spatial.rho(element_of(group, _cycled(g)))


def _of_linear_part(matrix: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Features do not see where the origin is."""
    return lambda g: matrix(g[:-1, :-1])


def _cycled(g: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """g on (z, x, y): e3nn's real spherical harmonics of m = -1, 0, 1 are x, y, z, where others have y, z, x."""
    return g[[2, 0, 1]][:, [2, 0, 1]]


def of_field_type(field_type: Any, g: Float[Tensor, "d d"]) -> Float[Tensor, "n n"]:
    """The matrix by which an escnn field type with a finite group moves its channels."""
    for element in field_type.fibergroup.elements or ():
        acting = torch.as_tensor(field_type.gspace.basespace_action(element)).to(g)
        if acting.shape == g.shape and torch.allclose(acting, g, atol=1e-3):
            blocks = [torch.as_tensor(rep(element), dtype=torch.float64) for rep in field_type.representations]
            return torch.block_diag(*blocks)
    raise ValueError(
        f"{g.tolist()} is no element of {field_type.fibergroup.name}, which is finite in field types of inputs."
    )
