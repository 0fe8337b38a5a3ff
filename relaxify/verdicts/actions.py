"""How a group element acts on a model's inputs: the default, irreps that the user names, and the user's own function."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.graph.inputs import Inputs, leaves_of, map_tensors, tensors_of
from relaxify.grids.pixels import MovePixels, acts_on_grid, is_image
from relaxify.groups import Group
from relaxify.modules.copies import duplicate
from relaxify.sites import Features
from relaxify.verdicts.draws import draws
from relaxify.verdicts.factors import FactorActions, check_commuting
from relaxify.verdicts.features import IrrepsOf, MoveFeatures, features_of
from relaxify.verdicts.nearby import tensors_in

InputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, inputs) -> transformed inputs, in the form in which they were given."""

OutputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, output) -> transformed output."""


class Remedy(enum.Enum):
    """What the user can do about inputs of which it cannot be told how they move, in the words of Python."""

    FUNCTION = "pass input_action=lambda g, inputs: ..., or input_irreps for features"
    SIZES = "pass input_action=lambda g, inputs: ..., or example inputs with other sizes"
    PIXELS = "pass input_action=relaxify.MovePixels(), MovePixels({{'{name}': axis}}) for vectors on pixels, or other sizes"
    FLOATS = "pass floating-point positions"
    SQUARE = "quarter turns need height = width: pass square images"
    QUARTERS = "try 'C(4)' or 'D(4)', or pass input_action=lambda g, inputs: ..."
    ONE = "pass the one or the other"
    POINTS = "name the others in input_irreps, as {{'v': '1xvector'}}, or pass input_action=lambda g, inputs: ..."
    GIVEN = "pass inputs to move"


class ActionError(ValueError):
    """It cannot be told how a group moves the inputs: `why`, of the input `name`, and what to do about it."""

    def __init__(self, why: str, remedy: Remedy, name: str = "") -> None:
        self.why, self.remedy, self.name = why, remedy, name
        super().__init__(f"{why}; {remedy.value.format(name=name)}.")


def action_on(
    model: nn.Module,
    group: Group | str,
    inputs: Inputs,
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
) -> InputAction | None:
    """The user's own action, checked, or that of the irreps that the user names; None for the default.

    ValueError for both, for infinite entries that move, for irreps that the inputs do not carry, and for an action that
    moves nothing, or changes the form or the shapes of the inputs.
    """
    if input_action is not None and input_irreps:
        raise ActionError("input_action says how all inputs move, input_irreps how some do", Remedy.ONE)
    _check_inputs(inputs)
    group = Group.parse(group)
    if group.factors:
        return _action_of_product(model, group, inputs, input_action, input_irreps)
    if input_irreps:
        features = features_of(model, group, inputs, input_irreps)
        return MoveFeatures(features, default_action(group, inputs, features))
    if input_action is not None:
        _check_action(group, inputs, input_action)
    _check_infinite(group, inputs, input_action)
    return input_action


def _action_of_product(
    model: nn.Module, group: Group, inputs: Inputs, input_action: InputAction | None, input_irreps: IrrepsOf | None
) -> InputAction:
    if input_action is not None:
        _check_action(group, inputs, input_action)
        acting = input_action
    else:
        named = _irreps_by_factor(model, group, inputs, input_irreps or {})
        own = [action_on(model, factor, inputs, None, of) for factor, of in zip(group.factors, named, strict=True)]
        actions = (one or default_action(factor, inputs) for one, factor in zip(own, group.factors, strict=True))
        acting = FactorActions(group, tuple(actions), tuple(one is None for one in own))
    check_commuting(group, inputs, acting)
    return acting


def _irreps_by_factor(model: nn.Module, group: Group, inputs: Inputs, irreps: IrrepsOf) -> list[dict[str, Any]]:
    """Which of the features that are named are of which factor: of the first that has such representations."""
    found: list[dict[str, Any]] = [{} for _ in group.factors]
    for name, given in irreps.items():
        refused: list[ValueError] = []
        for factor, of_factor in zip(group.factors, found, strict=True):
            try:
                features_of(model, factor, inputs, {name: given})
            except ValueError as error:
                refused.append(error)
            else:
                of_factor[name] = given
                break
        if len(refused) == len(found):
            raise refused[0]
    return found


def _check_infinite(group: Group, inputs: Inputs, action: InputAction | None) -> None:
    """Infinite entries may be a mask; those that move are none."""
    infinite = {name: tensor for name, tensor in tensors_of(inputs) if tensor.is_floating_point() and tensor.isinf().any()}
    if not infinite:
        return
    act = action or default_action(group, inputs)
    after = dict(tensors_of(act(draws(group, 0)[0].matrix, duplicate(inputs, _doubled, "the input"))))
    if name := next((name for name, tensor in infinite.items() if not _same(_doubled(tensor), after.get(name))), None):
        raise ValueError(f"{name} has infinite (inf) entries, which {group.name} cannot move; pass finite inputs.")


def _check_inputs(inputs: Inputs) -> None:
    arrays = [leaf for leaf in leaves_of(inputs) if isinstance(leaf, np.ndarray)]
    if arrays:
        raise ValueError(f"an input is a numpy.ndarray of shape {arrays[0].shape}; pass torch.from_numpy(...) of it.")
    if not inputs:
        raise ActionError("there are no inputs", Remedy.GIVEN)


def _check_action(group: Group, inputs: Inputs, action: InputAction) -> None:
    """ValueError if an action of the user's own cannot be meant: an answer in another form, or the same inputs."""
    # in the precision in which it will be measured
    before = tensors_in(duplicate(inputs, _doubled, "the input"))
    is_moved = False
    for g in draws(group, 0)[:2]:
        # some actions write to what they are given
        copied = duplicate(inputs, _doubled, "the input")
        with torch.no_grad():
            moved = action(g.matrix, copied)
        if not isinstance(moved, dict if isinstance(inputs, dict) else (tuple, list)):
            form = "a dict by name" if isinstance(inputs, dict) else "a tuple, as (x,) is"
            raise ValueError(f"input_action returned a {type(moved).__name__}; it takes and returns all inputs, in {form}.")
        after = tensors_in(tuple(moved) if isinstance(moved, list) else moved)
        _check_shapes(before, after)
        is_moved |= any(not _same(tensor, after.get(name)) for name, tensor in before.items())
    if before and not is_moved:
        raise ValueError(
            f"input_action leaves every input unchanged under {group.name}, so nothing can be judged; return the inputs "
            "moved by g, or give inputs that it moves."
        )


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor


def _check_shapes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Graphs may be built anew, with other numbers of edges, and images be turned; nothing else changes its size."""
    changed = [name for name, tensor in before.items() if name not in after or after[name].numel() != tensor.numel()]
    if changed and all(before[name].is_floating_point() for name in changed):
        name = changed[0]
        there = f"of shape {tuple(after[name].shape)}" if name in after else "gone"
        raise ValueError(
            f"input{name} has shape {tuple(before[name].shape)} and is {there} after input_action; "
            "return it moved, and as large."
        )


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and other.shape == tensor.shape and bool(torch.equal(other.nan_to_num(), tensor.nan_to_num()))


def moves_pixels(action: InputAction) -> bool:
    """Whether this is the action on images."""
    return isinstance(action.others if isinstance(action, MoveFeatures) else action, MovePixels)


def default_action(group: Group, inputs: Inputs, named: Collection[str] = ()) -> InputAction:
    """Every axis of a floating-point input that has the size of the group's matrices is a vector.

    Under a group that maps a grid of pixels to itself, (batch, channels, height, width) with height = width is an image;
    under translations T(n) an input that is alone, with an axis of size n, holds positions, x + t; under E(n), SE(n) and
    Aff(n) the only one with such an axis. Each factor of a product acts so. Inputs that are `named` move otherwise; so do
    one-hot codes beside vectors.
    ValueError if no input has such an axis or is an image, or one has several, or if codes may be vectors: then only the
    user can say.
    """
    if group.factors:
        actions = tuple(default_action(factor, inputs, named) for factor in group.factors)
        return FactorActions(group, actions, (True,) * len(actions))
    floating = [(name, tensor) for name, tensor in tensors_of(inputs) if tensor.is_floating_point()]
    images = [name for name, tensor in floating if acts_on_grid(group) and is_image(tensor)]
    others = [(name, tensor) for name, tensor in floating if name not in named]
    if group.of_features != group:
        return _positions(group, others) or _refuse(group, inputs)
    axes = {name: found[0] for name, tensor in others if (found := _vector_axes(group, name, tensor))}
    axes = _without_codes(group, dict(others), axes)
    _check_whole_numbers(group, inputs, axes)
    if images:
        return MovePixels(axes)
    if not axes and not named:
        return _positions(group, others) or _refuse(group, inputs)
    return _OnAxes(axes)


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


def _check_whole_numbers(group: Group, inputs: Inputs, axes: Mapping[str, int]) -> None:
    """ActionError for whole numbers beside vectors that permutations may move too: kinds of atoms, a mask, neighbours."""
    n = group.dim
    for name, tensor in tensors_of(inputs) if axes and n > 2 and group.name == f"S({n})" else ():
        if not tensor.is_floating_point() and n in tensor.shape:
            kind = str(tensor.dtype).removeprefix("torch.")
            why = f"{name} is {kind} {tuple(tensor.shape)}: whether {group.name} permutes its axis of size {n} is ambiguous"
            raise ActionError(why, Remedy.FUNCTION, name)


def _are_one_hot(rows: Float[Tensor, "*rows d"]) -> bool:
    """Whether each of several rows is one 1 among zeros. A row alone may well be a direction."""
    is_code = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(-1) == 1).all())
    return rows.ndim > 1 and rows[..., 0].numel() > 1 and is_code


def _permutes(group: Group) -> bool:
    """Whether the group takes codes to codes."""
    finite = group.finite
    return not len(group.generators) and bool(((finite == 0) | (finite == 1)).all())


@dataclass(frozen=True)
class _OnAxes:
    """g v on the axes that carry vectors; or x + t, for a matrix g on (x, 1)."""

    axes: Mapping[str, int]
    positions: bool = False

    def __call__(self, g: Float[Tensor, "d d"], inputs: Inputs) -> Inputs:
        def move(name: str, tensor: Tensor) -> Tensor:
            if name not in self.axes:
                return tensor
            features = Features((self.axes[name],))
            if not self.positions:
                return features.apply(g.to(tensor), tensor)
            rows = features.rows(tensor) @ g[:-1, :-1].to(tensor).mT + g[:-1, -1].to(tensor)
            return features.restore(rows, like=tensor)

        moved: Inputs = map_tensors(move, inputs)
        return moved


def _positions(group: Group, floating: list[tuple[str, Tensor]]) -> InputAction | None:
    """Beside another input, a velocity may be, which no translation moves."""
    if not group.is_affine:
        return None
    axes = {name: [axis for axis, size in enumerate(tensor.shape) if size == group.dim - 1] for name, tensor in floating}
    # what only translations move may be without such an axis, as a velocity is
    found = {name: own for name, own in axes.items() if own} if group.of_features != group else axes
    if len(found) != 1:
        return None
    ((name, own),) = found.items()
    return _OnAxes({name: own[0]}, positions=True) if len(own) == 1 else None


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
