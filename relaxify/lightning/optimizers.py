"""The terms' parameters in the optimizers that `configure_optimizers` made, and in their saved states."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import owned_terms


def join_layers(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Add terms that no optimizer holds to the group that has their own layers' weights.

    So it is where the optimizer was made before the model was relaxed, or of a list of parameters. A PitfallWarning names
    layers that are not trained, whose terms are not trained either.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    untrained = []
    for owner, term in owned_terms(model):
        new = [parameter for parameter in term.parameters() if id(parameter) not in group_of]
        own = model.get_submodule(owner).parameters(recurse=False)
        group = next((group_of[id(parameter)] for parameter in own if id(parameter) in group_of), None)
        if new and group is None:
            untrained.append(owner)
        elif group is not None:
            group["params"].extend(new)
            if "param_names" in group:
                group["param_names"].extend(names[id(parameter)] for parameter in new)
    if untrained:
        warnings.warn(
            f"no optimizer holds the weights of {', '.join(map(repr, untrained[:3]))}, nor those of their terms, which stay "
            "zero: exclude these layers, or let configure_optimizers return one that does.",
            PitfallWarning,
            stacklevel=2,
        )


def remove_terms(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Take the terms' parameters out of optimizers, as they are to be after projecting."""
    gone = {id(parameter) for _, term in owned_terms(model) for parameter in term.parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            kept = [id(parameter) not in gone for parameter in group["params"]]
            for parameter in group["params"]:
                if id(parameter) in gone:
                    optimizer.state.pop(parameter, None)
            for name in ("params", "param_names"):
                if name in group:
                    group[name] = list(itertools.compress(group[name], kept))


def with_terms(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The saved state of an optimizer of the plain model, for one that holds terms as well; another state as it is."""
    terms = {id(parameter) for _, term in owned_terms(model) for parameter in term.parameters()}
    groups, saved = optimizer.param_groups, state["param_groups"]
    own = [[id(parameter) not in terms for parameter in group["params"]] for group in groups]
    if len(groups) != len(saved) or any(sum(kept) != len(group["params"]) for kept, group in zip(own, saved, strict=True)):
        return state
    moved: dict[Any, int] = {}
    number, new = 0, []
    for kept, group, current in zip(own, saved, groups, strict=True):
        before = iter(group["params"])
        places = range(number, number + len(kept))
        moved |= {next(before): place for place, is_own in zip(places, kept, strict=True) if is_own}
        names = {"param_names": current["param_names"]} if "param_names" in group and "param_names" in current else {}
        new.append({**group, **names, "params": list(places)})
        number += len(kept)
    return {**state, "state": {moved[key]: value for key, value in state["state"].items()}, "param_groups": new}
