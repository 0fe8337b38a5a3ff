"""How inputs move if nobody says: by the sizes of their axes, by the names that atomistic models give them, as images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import Inputs, map_tensors, tensors_of
from relaxify.grids.pixels import MovePixels, acts_on_grid, is_image
from relaxify.groups import Group
from relaxify.sites import Features
from relaxify.verdicts.action_errors import ActionError, InputAction, Remedy
from relaxify.verdicts.factors import FactorActions
from relaxify.verdicts.known_inputs import EDGES, POSITIONS, axes_by_name


def default_action(group: Group, inputs: Inputs, named: Collection[str] = ()) -> InputAction:
    """Every axis of a floating-point input that has the size of the group's matrices is a vector.

    Under a group that maps a grid of pixels to itself, (batch, channels, height, width) with height = width is an image;
    under translations T(n) an input that is alone, with an axis of size n, holds positions, x + t; under E(n), SE(n) and
    Aff(n) the only one with such an axis. Each factor of a product acts so. Inputs that are `named` move otherwise; so do
    one-hot codes beside vectors. What atomistic models call their inputs (positions, cell, shifts, stress) decides first.
    Under S(n) edges between the n, by the names that graph networks give them, are between the same as before.
    ValueError if no input has such an axis or is an image, or one has several, or if codes may be vectors, or whole numbers
    may number what is permuted: then only the user can say.
    """
    if group.factors:
        actions = tuple(default_action(factor, inputs, named) for factor in group.factors)
        return FactorActions(group, actions, (True,) * len(actions))
    floating = [(name, tensor) for name, tensor in tensors_of(inputs) if tensor.is_floating_point()]
    images = [name for name, tensor in floating if acts_on_grid(group) and is_image(tensor)]
    others = [(name, tensor) for name, tensor in floating if name not in named]
    if group.of_features != group:
        return _positions(group, others) or _refuse(group, inputs)
    by_name = {name: axes_by_name(group, name, tensor) for name, tensor in others if not group.is_affine}
    known = {name: of_name for name, of_name in by_name.items() if of_name is not None}
    others = [(name, tensor) for name, tensor in others if name not in known]
    axes = {name: found[0] for name, tensor in others if (found := _vector_axes(group, name, tensor))}
    axes = _without_codes(group, dict(others), axes)
    numbering = _numbering(group, inputs) if axes else frozenset()
    _check_whole_numbers(group, inputs, axes, numbering)
    if images:
        return MovePixels(axes)
    moved = {name: (axis,) for name, axis in axes.items()} | {name: of_name for name, of_name in known.items() if of_name}
    if not moved and not named:
        return _positions(group, others) or _refuse(group, inputs)
    return OnAxes(moved, numbering=numbering)


def _without_codes(group: Group, tensors: Mapping[str, Tensor], axes: Mapping[str, int]) -> dict[str, int]:
    """The axes without those of one-hot codes, as of three species, which no rotation moves."""
    codes = {name for name, axis in axes.items() if _are_one_hot(tensors[name].movedim(axis, -1))}
    if not codes or _permutes(group):
        return dict(axes)
    for name in codes:
        rows = tensors[name].movedim(axes[name], -1).flatten(0, -2)
        if codes == set(axes) or bool((rows == rows[0]).all()):
            shape = tuple(tensors[name].shape)
            why = f"{name} has shape {shape}, each row a 1 and else 0: whether these are codes or vectors is ambiguous"
            raise ActionError(why, Remedy.FUNCTION)
    return {name: axis for name, axis in axes.items() if name not in codes}


def _numbering(group: Group, inputs: Inputs) -> frozenset[str]:
    """The inputs that are edges between what is permuted."""
    if not _permutes_all(group):
        return frozenset()
    named = [(name, tensor) for name, tensor in tensors_of(inputs) if name.rpartition(".")[2] in EDGES]
    return frozenset(name for name, tensor in named if _may_number(group, tensor))


def _check_whole_numbers(group: Group, inputs: Inputs, axes: Mapping[str, int], numbering: Collection[str]) -> None:
    """ActionError for whole numbers beside vectors that permutations may move too: kinds of atoms, a mask, neighbours."""
    if not axes or not _permutes_all(group):
        return
    for name, tensor in tensors_of(inputs):
        if tensor.is_floating_point() or name in numbering:
            continue
        what = f"{name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        if group.dim in tensor.shape:
            why = f"{what}: whether {group.name} permutes its axis of size {group.dim} is ambiguous"
            raise ActionError(why, Remedy.FUNCTION, name)
        if _may_number(group, tensor):
            why = (
                f"{what}, of numbers below {group.dim}: whether these are those of what {group.name} permutes is ambiguous "
                "(edges are known by their name, as edge_index)"
            )
            raise ActionError(why, Remedy.FUNCTION, name)


def _permutes_all(group: Group) -> bool:
    return group.dim > 2 and group.name == f"S({group.dim})"


def _may_number(group: Group, tensor: Tensor) -> bool:
    """Whether these are several whole numbers from 0 to n - 1."""
    is_whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    return is_whole and tensor.numel() > 1 and int(tensor.min()) >= 0 and int(tensor.max()) < group.dim


def _are_one_hot(rows: Float[Tensor, "*rows d"]) -> bool:
    """Whether each of several rows is one 1 among zeros. A row alone may well be a direction."""
    is_code = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(-1) == 1).all())
    return rows.ndim > 1 and rows[..., 0].numel() > 1 and is_code


def _permutes(group: Group) -> bool:
    """Whether the group takes codes to codes."""
    finite = group.finite
    return not len(group.generators) and bool(((finite == 0) | (finite == 1)).all())


@dataclass(frozen=True)
class OnAxes:
    """g v on the axes that carry vectors, one after the other; x + t besides on what is `translated`, for g on (x, 1).

    Entries of what is `numbering` are i where they were j, if the permutation g takes j to i.
    """

    axes: Mapping[str, tuple[int, ...]]
    translated: frozenset[str] = frozenset()
    is_affine: bool = False
    numbering: frozenset[str] = frozenset()

    def __call__(self, g: Float[Tensor, "d d"], inputs: Inputs) -> Inputs:
        linear, shift = (g[:-1, :-1], g[:-1, -1]) if self.is_affine else (g, None)

        def move(name: str, tensor: Tensor) -> Tensor:
            if name in self.numbering:
                return g.argmax(0)[tensor.long()].to(tensor)
            for axis in self.axes.get(name, ()):
                features = Features((axis,))
                if shift is None or name not in self.translated:
                    tensor = features.apply(linear.to(tensor), tensor)
                else:
                    rows = features.rows(tensor) @ linear.to(tensor).mT + shift.to(tensor)
                    tensor = features.restore(rows, like=tensor)
            return tensor

        moved: Inputs = map_tensors(move, inputs)
        return moved

    def told(self) -> dict[str, str]:
        """How each input moves, in words."""
        words = {}
        for name, axes in self.axes.items():
            what = "positions" if name in self.translated else "vectors" if len(axes) == 1 else "matrices"
            words[name] = f"{what} on axis {' and '.join(map(str, axes))}"
        return words | dict.fromkeys(sorted(self.numbering), "numbers of what is permuted")


def _positions(group: Group, floating: list[tuple[str, Tensor]]) -> InputAction | None:
    """Positions that are alone, or known by their name among others that are: a velocity is moved by no translation."""
    if not group.is_affine:
        return None
    axes = {name: [axis for axis, size in enumerate(tensor.shape) if size == group.dim - 1] for name, tensor in floating}
    # what only translations move may be without such an axis, as a velocity is
    found = {name: own for name, own in axes.items() if own} if group.of_features != group else axes
    known = {name: of_name for name, tensor in floating if (of_name := axes_by_name(group, name, tensor)) is not None}
    translated = frozenset(name for name in known if name.rpartition(".")[2] in POSITIONS)
    if translated and found.keys() <= known.keys():
        return OnAxes({name: of_name for name, of_name in known.items() if of_name}, translated, is_affine=True)
    if len(found) != 1:
        return None
    ((name, own),) = found.items()
    return OnAxes({name: (own[0],)}, frozenset({name}), is_affine=True) if len(own) == 1 else None


def _vector_axes(group: Group, name: str, tensor: Tensor) -> list[int]:
    """The axis on which a tensor carries vectors, if there is one."""
    shape = tuple(tensor.shape)
    found = [axis for axis, size in enumerate(shape) if size == group.dim]
    if found and _may_be_image(group, tensor):
        raise ActionError(
            f"{name} has shape {shape}: whether {group.name} moves its pixels or acts on its axis of size {group.dim} is "
            "ambiguous",
            Remedy.PIXELS if acts_on_grid(group) else Remedy.QUARTERS,
            name,
        )
    if len(found) > 1:
        raise ActionError(
            f"{name} has shape {shape}: which axis of size {group.dim} carries vectors of {group.name} is ambiguous",
            Remedy.SIZES,
            name,
        )
    return found


def _may_be_image(group: Group, tensor: Tensor) -> bool:
    """Whether the group turns the plane, or shifts it, and this may be images."""
    return is_image(tensor) and (acts_on_grid(group) or (group.dim == 2 and group.compact))


def _refuse(group: Group, inputs: Inputs) -> InputAction:
    """ActionError that says what comes nearest to being moved."""
    raise next(_nearest(group, list(tensors_of(inputs))))


def _nearest(group: Group, tensors: list[tuple[str, Tensor]]) -> Iterator[ActionError]:
    for name, tensor in tensors:
        shape, kind = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if not tensor.is_floating_point() and tensor.dtype != torch.bool and group.dim in shape:
            yield ActionError(
                f"{name} is {kind} {shape}, and {group.name} moves floating-point numbers", Remedy.FLOATS, name
            )
        if _may_be_image(group, tensor):
            why = f"{name} has shape {shape}: {group.name} moves the pixels of images between pixels"
            yield ActionError(why, Remedy.QUARTERS, name)
        if acts_on_grid(group) and tensor.ndim == 4 and tensor.is_floating_point() and min(shape[2:]) > 1:
            yield ActionError(f"{name} has shape {shape}, and {group.name} moves square images", Remedy.SQUARE, name)
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors)
    if group.of_features != group:
        n, found = group.vector_size, [name for name, tensor in tensors if group.vector_size in tensor.shape]
        which = f"{' and '.join(found)} have" if found else "no example input has"
        yield ActionError(f"{group.name} moves points, and {which} an axis of size {n} ({shapes})", Remedy.POINTS)
    why = f"no example input has an axis of size {group.dim} that {group.name} could act on ({shapes})"
    yield ActionError(why, Remedy.FUNCTION)
