"""Whether a converted checkpoint is what it should be: the plain model with its weights is run, and held against two things.

It must commute with the group of the terms, f(g x) = rho(g) f(x), on full-size group elements; and give what the relaxed
model gives once it is projected (CR sec. 3.3), for which the plain model is relaxed as the records say.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.checkpoint import Conversion, LoadError, StateContents, StateConversion, contents, load_state
from relaxify.graph.inputs import Inputs, InputsError, call, tensors_of
from relaxify.groups import Group
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.projecting import project
from relaxify.verdicts import Verdict, measure
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.actions import action_on
from relaxify.verdicts.features import IrrepsOf

ROUNDING = 8
"""Of the output's precision: two models with the same weights may add up in another order."""


@dataclass(frozen=True)
class Verification:
    """What one converted state dict makes of the plain model.

    - `verdicts`: one for each group that the records name.
    - `difference`: max |f(x) - p(x)| / max |p(x)| for the projected relaxed model p, which `tolerance` bounds; None where
      that could not be made, and `unmade` says why.
    """

    where: tuple[Any, ...]
    model: str
    verdicts: tuple[Verdict, ...]
    difference: float | None
    tolerance: float
    unmade: str | None = None

    @property
    def is_equal(self) -> bool | None:
        """Whether both models give the same; None if that could not be told."""
        # NaN is above every bound
        return None if self.difference is None else bool(self.difference <= self.tolerance)

    @property
    def is_sound(self) -> bool:
        """Whether every verdict is sound, and no difference was found."""
        return all(verdict.is_sound for verdict in self.verdicts) and self.is_equal is not False


def verify(
    make: Callable[[], nn.Module],
    path: Path,
    conversion: Conversion,
    inputs: Inputs,
    *,
    prefix: str = "",
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
    output_action: OutputAction | None = None,
) -> tuple[Verification, ...]:
    """Run the model that `make` makes with each state dict of the converted file `path`, and say what it does.

    `inputs` are the arguments of its forward; how the group moves them, and what comes out, as of `relaxify.inspect`.
    `prefix` is what was before the model's keys in the relaxed checkpoint. LoadError if a state dict does not load with
    strict=True; ValueError for a group that has no name, or inputs on which the model does not run.
    """
    of = {state.where: state for state in contents(conversion.source).states}
    prefix = f"{prefix.removesuffix('.')}." if prefix else ""
    found = []
    for state in conversion.states:
        model = make().eval()
        load_state(model, path, state.where)
        groups = [_group(name) for name in of[state.where].groups]
        actions = [action_on(model, group, inputs, input_action, input_irreps) for group in groups]
        verdicts = tuple(
            measure(model, group, inputs, input_action=act, output_action=output_action)
            for group, act in zip(groups, actions, strict=True)
        )
        relax = functools.partial(_projected, make, path, conversion, state, of[state.where], inputs, prefix=prefix)
        found.append(_compared(state.where, model, verdicts, inputs, functools.partial(relax, actions[0])))
    return tuple(found)


def _group(name: str) -> Group:
    try:
        return Group.parse(name)
    except ValueError as error:
        raise ValueError(
            f"its terms are for the group {name!r}, which is none that has a name, so that whether the model commutes with "
            "it cannot be measured; leave the inputs out, and verify that it loads."
        ) from error


def _compared(
    where: tuple[Any, ...], model: nn.Module, verdicts: tuple[Verdict, ...], inputs: Inputs, relax: Callable[[], nn.Module]
) -> Verification:
    name = type(model).__name__
    y = _run(model, inputs)
    precisions = [torch.finfo(value.dtype).eps for value in y if value.is_floating_point() or value.is_complex()]
    tolerance = ROUNDING * max(precisions, default=0.0)
    try:
        projected = relax()
    except LoadError as error:
        return Verification(where, name, verdicts, None, tolerance, f"once relaxed, it has other keys: {error.reason}")
    except (ValueError, RuntimeError) as error:
        return Verification(where, name, verdicts, None, tolerance, " ".join(str(error).split()))
    return Verification(where, name, verdicts, _difference(y, _run(projected, inputs)), tolerance)


def _projected(
    make: Callable[[], nn.Module],
    path: Path,
    conversion: Conversion,
    state: StateConversion,
    contents: StateContents,
    inputs: Inputs,
    action: InputAction | None,
    *,
    prefix: str,
) -> nn.Module:
    """The model relaxed at the terms' sites, with the relaxed checkpoint's weights, projected. LoadError if these differ."""
    model = make()
    # layers are found by their values, which take trained weights
    load_state(model, path, state.where)
    by_rank: dict[int | None, list[str]] = {}
    for term in contents.terms:
        by_rank.setdefault(term.rank, []).append(term.site)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relaxify(
            model,
            contents.groups[0],
            include=[functools.partial(_is_among, {term.site for term in contents.terms})],
            overrides={functools.partial(_is_among, sites): RelaxConfig(rank=rank) for rank, sites in by_rank.items()},
            example_inputs=copy.deepcopy(inputs),
            input_action=action,
        )
        load_state(model, conversion.source, state.where, prefix=prefix)
        return project(model, mode="fold" if conversion.mode == "fold" else "drop").eval()


def _is_among(sites: Collection[str], path: str, module: nn.Module) -> bool:
    return path in sites


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Every tensor that comes out, with the same random numbers each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.default_generator.manual_seed(0)
        try:
            return [value.detach() for _, value in tensors_of(call(model, copy.deepcopy(inputs)), "output")]
        except Exception as error:
            raise InputsError(error) from error


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """max |f - p| / max |p| over all tensors; infinite if they are not of the same shapes, NaN if one has NaN."""
    if [value.shape for value in found] != [value.shape for value in expected]:
        return float("inf")
    pairs = [(_real(a), _real(b)) for a, b in zip(found, expected, strict=True) if a.numel()]
    distance, size = _largest(a - b for a, b in pairs), _largest(b for _, b in pairs)
    return float(distance / size) if distance else 0.0


def _real(value: Tensor) -> Tensor:
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).double()


def _largest(values: Iterable[Tensor]) -> Tensor:
    # unlike the builtin, this max lets NaN through
    return torch.stack([torch.zeros((), dtype=torch.float64), *(value.abs().max().cpu() for value in values)]).max()
