"""How a group element acts on a model's inputs: by irreps that the user names, by the user's own function, or by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from relaxify.graph.inputs import Inputs, leaves_of, tensors_of
from relaxify.grids.pixels import MovePixels
from relaxify.groups import Group
from relaxify.modules.copies import duplicate
from relaxify.verdicts.action_errors import ActionError, InputAction, Remedy
from relaxify.verdicts.default_action import OnAxes, default_action
from relaxify.verdicts.draws import draws
from relaxify.verdicts.factors import FactorActions, check_commuting, doubled
from relaxify.verdicts.features import IrrepsOf, MoveFeatures, features_of
from relaxify.verdicts.nearby import tensors_in
from relaxify.verdicts.verdict import name_of

T = TypeVar("T")


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
    after = dict(tensors_of(act(draws(group, 0)[0].matrix, duplicate(inputs, doubled, "the input"))))
    if name := next((name for name, tensor in infinite.items() if not _same(doubled(tensor), after.get(name))), None):
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
    before = tensors_in(duplicate(inputs, doubled, "the input"))
    is_moved = False
    for g in draws(group, 0)[:2]:
        # some actions write to what they are given
        copied = duplicate(inputs, doubled, "the input")
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


def told(action: InputAction, group: Group) -> dict[str, str]:
    """How each input that is moved is, in words, by its name; nothing of a function of the user's own.

    >>> cell, positions = torch.eye(3), torch.randn(7, 3)
    >>> inputs, rotations = ({"pos": positions, "cell": cell},), Group.parse("SO(3)")
    >>> told(default_action(rotations, inputs), rotations)
    {'0.pos': 'vectors on axis 1', '0.cell': 'vectors on axis 1'}
    """
    if isinstance(action, FactorActions):
        words: dict[str, str] = {}
        for factor, of_factor in zip(group.factors, action.actions, strict=True):
            for name, what in told(of_factor, factor).items():
                words[name] = "; ".join(filter(None, (words.get(name), f"{factor.name}: {what}")))
        return words
    if isinstance(action, MoveFeatures):
        own = {name: f"features on axis {of.axis}" for name, of in action.features.items()}
        return told(action.others, group) | _short(own)
    if isinstance(action, MovePixels):
        words = {name: f"pixels, and vectors on axis {axis}" for name, axis in action.vectors.items()}
        return {"images": "pixels"} | _short(words)
    return _short(action.told()) if isinstance(action, OnAxes) else {}


def described(inputs: Inputs, action: InputAction, group: Group) -> dict[str, str]:
    """Every tensor of the inputs by its name: precision, shape, and how it is moved where that is known.

    >>> rotations, inputs = Group.parse("SO(3)"), (torch.randn(7, 3), torch.arange(7))
    >>> described(inputs, default_action(rotations, inputs), rotations)
    {'0': 'float32 (7, 3), vectors on axis 1', '1': 'int64 (7,)'}
    """
    words = told(action, group)
    kinds = {
        name: f"{name_of(value.dtype)} {tuple(value.shape)}" for name, value in _short(dict(tensors_of(inputs))).items()
    }
    return {name: ", ".join(filter(None, (kind, words.get(name)))) for name, kind in kinds.items()}


def _short(words: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix("input."): what for name, what in words.items()}


def moves_pixels(action: InputAction) -> bool:
    """Whether this is the action on images."""
    return isinstance(action.others if isinstance(action, MoveFeatures) else action, MovePixels)
