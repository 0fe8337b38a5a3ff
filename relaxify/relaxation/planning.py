"""plan: which sites would be relaxed, and which candidates not and why, at no change to the model.

Adapters claim layers by their types, evidence from runs on example inputs judges what types do not tell, and no claim is
believed without proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from relaxify.evidence.analysis import Analysis
from relaxify.evidence.judging import judge_by_data_flow
from relaxify.graph.exported import AnyModel, opened
from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.interrupts import undisturbed
from relaxify.modules.checks import check_has_values, check_model
from relaxify.modules.hanging import hung
from relaxify.modules.patterns import Pattern, patterns_of
from relaxify.modules.selection import Selection
from relaxify.relaxation.claims import alone, claims_of, united, unjudged
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.examining import Examined, as_a_whole, examine
from relaxify.relaxation.factors import Product, UnderFactor
from relaxify.relaxation.plan import Plan
from relaxify.sites import Rejected, Site
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.actions import action_on, told
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.factors import of_one_factor
from relaxify.verdicts.features import IrrepsOf
from relaxify.verdicts.measuring import Measurement
from relaxify.verdicts.verdict import of_product


class UncheckedWarning(UserWarning):
    """Of a model without example inputs: what stands between equivariant layers (padding, flattening) may break it."""


ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]


@undisturbed
def plan(
    model: AnyModel,
    group: Group | str,
    *,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    config: RelaxConfig = RelaxConfig(),
    overrides: Mapping[Pattern, RelaxConfig] | None = None,
    example_inputs: ExampleInputs | None = None,
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
) -> Plan:
    """Every equivariant linear op that `relaxify` would relax, each numerically proved to commute with the group.

    - `model`: any module, a torch.fx graph too, or a torch.export program, whose own example inputs serve by default.
    - `group`, `include`, `exclude`, `config`, `overrides`: see `relaxify`. A layer with several names, or one that
      shares its weight with others, is selected by any of them.
    - `example_inputs`: arguments of the model's forward, in a tuple, or by keyword in a dict (which, if it is the one
      argument, goes into a tuple). With them, layers whose type proves nothing (a bare nn.Linear on vector channels) are
      judged by how their values transform when the inputs do, and the model as a whole by its outputs. Without, nothing is
      known of what stands between layers: zero padding, a stride or flattening may break what each of them keeps.
    - `input_action`: (g, inputs) -> inputs moved by the group element's matrix g (n x n); by default every axis that has
      the size n is a vector.
    - `input_irreps`: instead, the features that inputs carry on their last axis, by the names of forward's arguments:
      {"x": "8x0e+8x1o"} in e3nn's notation and basis (of degree 1: x, y, z), or in that of `relaxify.irreps` for other
      groups; or an escnn field type. The other inputs move as by default.

    ValueError for an unknown group, a model that cannot be changed (compiled, wrapped, lazy, half precision, NaN weights),
    or a pattern that matches nothing. The model is not changed.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    >>> found = plan(model, "SO(3)", example_inputs=torch.randn(16, 3, 4))
    >>> [(site.path, str(site.map.rep_in), str(site.map.rep_out)) for site in found.sites]
    [('0', '4xvector', '8xvector'), ('1', '8xvector', '1xvector')]
    >>> [rejected.path for rejected in plan(model, "SO(3)").rejected]  # without inputs nothing is known of bare layers
    ['0', '1']
    """
    model, example_inputs = opened(model, example_inputs)
    if example_inputs is None and input_irreps:
        raise ValueError("input_irreps says what the example inputs carry; pass example_inputs=(...) too.")
    if example_inputs is not None:
        input_action = action_on(model, group, _inputs(example_inputs), input_action, input_irreps)
    planned = plan_and_analysis(model, group, include, exclude, config, overrides, example_inputs, input_action)[0]
    if example_inputs is None:
        return planned
    acting = input_action or default_action(planned.group, _inputs(example_inputs))
    return replace(planned, moved=told(acting, planned.group))


def plan_and_analysis(
    model: nn.Module,
    group: Group | str,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    config: RelaxConfig = RelaxConfig(),
    overrides: Mapping[Pattern, RelaxConfig] | None = None,
    example_inputs: ExampleInputs | None = None,
    input_action: InputAction | None = None,
    *,
    output_action: OutputAction | None = None,
    training: bool = False,
    changes: bool = True,
    factor: bool = False,
) -> tuple[Plan, Examined | None]:
    """The plan, with the runs on example inputs that it rests on, in training mode if `training`.

    Without `changes`, for a model that is inspected and not relaxed, ordinary convolutions are taken as they are, and
    weights in half precision are no obstacle, and each value is told of; so it is for one `factor` of a product, under which
    a pattern may select nothing.
    """
    group, overrides = Group.parse(group), {} if overrides is None else overrides
    if group.factors:
        actions: dict[str, Any] = {"input_action": input_action, "output_action": output_action}
        given = {"example_inputs": example_inputs, "training": training, "changes": changes}
        return _plan_of_product(model, group, include, exclude, config, overrides, actions, given)
    _check_configs(config, overrides)
    include, exclude = patterns_of("include", include), patterns_of("exclude", exclude)
    check_model(model) if changes else check_has_values(model)
    selection = Selection(model, include, exclude, to_be_trained=changes)
    symmetrises = changes or next(hung(model), None) is not None
    claims = selection.decide(alone(model, claims_of(model, group), symmetrise=symmetrises))
    if example_inputs is None:
        examined, decided = None, [*claims, *selection.decide(unjudged(model, claims))]
    else:
        settled = [claim for claim in claims if not _is_open(claim)]
        actions = {"input_action": input_action, "output_action": output_action}
        actions |= {"training": training, "own": not changes, "whole": factor or not changes}
        examined = examine(model, group, _inputs(example_inputs), settled, **actions)
        judged = _judged(model, selection, claims, examined.analysis)
        decided = as_a_whole(model, claims, judged, examined)
    if not factor:
        selection.check({"include": include, "exclude": exclude, "overrides": patterns_of("overrides", overrides)})
    return _put_together(model, group, decided, examined, selection, overrides, config), examined


def _put_together(
    model: nn.Module,
    group: Group,
    decided: Sequence[Site | Rejected],
    examined: Examined | None,
    selection: Selection,
    overrides: Mapping[Pattern, RelaxConfig],
    config: RelaxConfig,
) -> Plan:
    sites = tuple(entry for entry in decided if isinstance(entry, Site))
    rejected = tuple(entry for entry in decided if isinstance(entry, Rejected))
    configs = {site.path: selection.value_for(site, overrides, config) for site in sites}
    types = Counter(type(module).__name__ for module in model.modules())
    diverged = examined.analysis.evidence.diverged if examined else None
    return Plan(group, sites, rejected, configs, types, diverged, examined.measured.verdict if examined else None)


def _plan_of_product(
    model: nn.Module,
    group: Group,
    include: Sequence[Pattern],
    exclude: Sequence[Pattern],
    config: RelaxConfig,
    overrides: Mapping[Pattern, RelaxConfig],
    actions: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple[Plan, Examined]:
    """The plans under the factors, each with all runs of its own, and what they come to together."""
    if given["example_inputs"] is None:
        raise ValueError(f"on which axes each factor of {group.name} acts only runs tell; give example inputs.")
    found = []
    for number, one in enumerate(group.factors):
        of_one = {**given, **of_one_factor(actions, group, number), "factor": True}
        planned, of_runs = plan_and_analysis(model, one, include, exclude, config, overrides, **of_one)
        assert of_runs is not None
        found.append((planned, of_runs))
    under = [UnderFactor.of(one.group, (*one.sites, *one.rejected), of_one.analysis) for one, of_one in found]
    product, selection = Product(model, group, under), Selection(model, (), ())
    decided = list(product.decided())
    selection.note(decided)
    given_patterns = {"include": include, "exclude": exclude, "overrides": overrides}
    selection.check({name: patterns_of(name, patterns) for name, patterns in given_patterns.items()})
    verdict = of_product(group.name, [of_one.measured.verdict for _, of_one in found])
    examined = Examined(Measurement(verdict), product.analysis, tuple(found))
    return _put_together(model, group, decided, examined, selection, overrides, config), examined


def _judged(
    model: nn.Module, selection: Selection, claims: Sequence[Site | Rejected], analysis: Analysis
) -> list[Site | Rejected]:
    """The claims held to the evidence, and what evidence says where there is no claim, or one that it can replace."""
    flow = judge_by_data_flow(model, analysis, [claim for claim in claims if not _is_open(claim)])
    left = [claim for claim in claims if _is_open(claim) and not _is_covered(claim, flow.judged)]
    return [*flow.claimed, *left, *selection.decide(united(flow.judged))]


def _is_open(claim: Site | Rejected) -> bool:
    """Whether evidence may take a claim's place: an adapter could not say, or the proof of its claim failed."""
    return isinstance(claim, Rejected) and (claim.unknown or claim.unsound)


def _is_covered(entry: Site | Rejected, judged: Iterable[Site | Rejected]) -> bool:
    """Whether something at this path, or below it, has been judged by evidence."""
    return any(f"{other.path}.".startswith(f"{entry.path}.".lstrip(".")) for other in judged)


def _check_configs(config: RelaxConfig, overrides: Mapping[Pattern, RelaxConfig]) -> None:
    if not isinstance(overrides, Mapping):
        raise ValueError(f"overrides={overrides!r}: pass a dict from patterns to RelaxConfig(...).")
    for name, value in {"config": config, **{f"overrides[{key!r}]": value for key, value in overrides.items()}}.items():
        if not isinstance(value, RelaxConfig):
            raise ValueError(f"{name}={value!r} is not a RelaxConfig; pass for example RelaxConfig(rank=16).")


def _inputs(example_inputs: ExampleInputs) -> Inputs:
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    return dict(example_inputs) if isinstance(example_inputs, Mapping) else tuple(example_inputs)
