"""plan: which sites would be relaxed, and which candidates not and why, at no change to the model.

Adapters claim layers by their types, evidence from runs on example inputs judges what types do not tell, and no claim is
believed without proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.evidence.analysis import Analysis, analyse, analyse_nothing, analyse_verdict, asked_of, symmetrise
from relaxify.evidence.judging import judge_by_data_flow
from relaxify.evidence.silence import is_sound_until_silent
from relaxify.evidence.verdict_runs import Tape
from relaxify.graph.exported import AnyModel, opened
from relaxify.graph.inputs import Inputs
from relaxify.grids.convolution import CONVOLUTIONS
from relaxify.groups import Group
from relaxify.interrupts import undisturbed
from relaxify.modules.checks import check_has_values, check_model
from relaxify.modules.hanging import CHILD, hung
from relaxify.modules.patterns import Pattern, patterns_of
from relaxify.modules.selection import Selection
from relaxify.registry import claims_on
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.factors import Product, UnderFactor
from relaxify.relaxation.plan import Plan
from relaxify.sites import Rejected, RejectionKind, Site
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.actions import action_on, told
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.factors import of_one_factor
from relaxify.verdicts.features import IrrepsOf
from relaxify.verdicts.measuring import Measurement, measurement, spoilt
from relaxify.verdicts.verdict import Reason, Status, Verdict, of_product


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
    claims = selection.decide(_alone(model, _claims(model, group), symmetrise=symmetrises))
    if example_inputs is None:
        examined, decided = None, [*claims, *selection.decide(_unjudged(model, claims))]
    else:
        settled = [claim for claim in claims if not _is_open(claim)]
        actions = {"input_action": input_action, "output_action": output_action}
        actions |= {"training": training, "own": not changes, "whole": factor or not changes}
        examined = _examine(model, group, _inputs(example_inputs), settled, **actions)
        judged = _judged(model, selection, claims, examined.analysis)
        decided = _as_a_whole(model, claims, judged, examined)
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


@dataclass(frozen=True)
class Examined:
    """A model on example inputs: the verdict on it as a whole, and how each of its values transforms.

    `factors`: under a product of groups, what is planned under each factor and what that rests on.
    """

    measured: Measurement
    analysis: Analysis
    factors: tuple[tuple[Plan, Examined], ...] = ()


def _examine(
    model: nn.Module,
    group: Group,
    inputs: Inputs,
    settled: Sequence[Site | Rejected],
    *,
    own: bool,
    whole: bool,
    training: bool,
    input_action: InputAction | None,
    output_action: OutputAction | None,
) -> Examined:
    """The verdict first; what each value does explains it, and never overrules it.

    If `own`, also in the model's own precision; if `whole`, each value of it.
    """
    if where := spoilt(model, inputs):
        raise ValueError(f"{where} has NaN or infinite values, of which nothing can be told; restore or replace them.")
    sites = [entry for entry in settled if isinstance(entry, Site)]
    options: dict[str, Any] = {"training": training, "prepare": partial(symmetrise, sites=sites)}
    actions: dict[str, Any] = {"input_action": input_action, "output_action": output_action}
    tape = Tape(None if whole else partial(asked_of, model, group, settled))
    measured = measurement(model, group, inputs, own=own, runner=tape, **actions, **options)
    if found := analyse_verdict(model, group, inputs, input_action, settled, measured, tape.runs, whole=whole):
        return Examined(measured, found)
    if measured.subject is not None and measured.twin is None:
        found = analyse_nothing(model, group, inputs, input_action, settled, twin=measured.subject.twin)
        return Examined(measured, found)
    # where a sign flips is looked for as if it were wrong
    status = Status.BROKEN if measured.verdict.reason is Reason.SIGN else measured.verdict.status
    options |= {"status": status, "worst": measured.worst, "twin": measured.twin, "whole": whole}
    return Examined(measured, analyse(model, group, inputs, input_action, settled, **options))


def _as_a_whole(
    model: nn.Module, claims: Sequence[Site | Rejected], decided: list[Site | Rejected], examined: Examined
) -> list[Site | Rejected]:
    """What was decided of each operation, held to the verdict on the model."""
    verdict = examined.measured.verdict
    if verdict.is_sound:
        return [_harmless(entry) for entry in _upheld(claims, decided)]
    is_blamed = any(isinstance(entry, Rejected) and entry.unsound for entry in decided)
    if verdict.status is Status.BROKEN and is_blamed:
        return decided
    # a constant is no proof; but no fault either, of values that transform up to there
    is_harmless = verdict.reason is Reason.SILENT and not is_blamed and is_sound_until_silent(examined.analysis.evidence)
    if is_harmless:
        decided = _upheld(claims, decided)
    return [*decided, *_of_the_model(model, verdict, RejectionKind.undecided if is_harmless else RejectionKind.unsound)]


def _upheld(claims: Sequence[Site | Rejected], decided: Sequence[Site | Rejected]) -> list[Site | Rejected]:
    """Claims are proved, and where nothing is broken, a layer that reads another basis or order of axes is no less right."""
    proved = {claim.path: claim for claim in claims if isinstance(claim, Site)}
    return [proved.get(entry.path, entry) if isinstance(entry, Rejected) and entry.spoilt else entry for entry in decided]


def _harmless(entry: Site | Rejected) -> Site | Rejected:
    if isinstance(entry, Rejected) and entry.unsound:
        return replace(entry, kind=RejectionKind.harmless)
    return entry


def _of_the_model(model: nn.Module, verdict: Verdict, kind: RejectionKind) -> Iterator[Rejected]:
    """What speaks against a model where no operation does."""
    if verdict.status is Status.LATENT:
        for name in verdict.parameters:
            reason = f"it will break {verdict.group} once trained: {name} is harmless only while it is exactly 0 or 1"
            path = name.rpartition(".")[0]
            yield Rejected(path, type(model.get_submodule(path)).__name__, reason, RejectionKind.unsound)
        return
    told = "no single operation could be named" if verdict.status is Status.BROKEN else "it cannot be told to be equivariant"
    error = f", error {verdict.error.mean:.1e}" if verdict.elements else ""
    reason = f"{verdict.why}{error}; {told}"
    yield Rejected("", type(model).__name__, reason, kind)


def _claims(model: nn.Module, group: Group) -> list[Site | Rejected]:
    """What the adapters say about each module, once if it has several names."""
    first: dict[int, tuple[str, nn.Module]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        first.setdefault(id(module), (path, module))
    return _united(claim for path, module in first.values() for claim in claims_on(path, module, group))


def _judged(
    model: nn.Module, selection: Selection, claims: Sequence[Site | Rejected], analysis: Analysis
) -> list[Site | Rejected]:
    """The claims held to the evidence, and what evidence says where there is no claim, or one that it can replace."""
    flow = judge_by_data_flow(model, analysis, [claim for claim in claims if not _is_open(claim)])
    left = [claim for claim in claims if _is_open(claim) and not _is_covered(claim, flow.judged)]
    return [*flow.claimed, *left, *selection.decide(_united(flow.judged))]


def _is_open(claim: Site | Rejected) -> bool:
    """Whether evidence may take a claim's place: an adapter could not say, or the proof of its claim failed."""
    return isinstance(claim, Rejected) and (claim.unknown or claim.unsound)


def _is_covered(entry: Site | Rejected, judged: Iterable[Site | Rejected]) -> bool:
    """Whether something at this path, or below it, has been judged by evidence."""
    return any(f"{other.path}.".startswith(f"{entry.path}.".lstrip(".")) for other in judged)


def _unjudged(model: nn.Module, claims: Sequence[Site | Rejected]) -> Iterator[Rejected]:
    """What only example inputs could tell about: torch's linear layers, and the weights that other modules hold themselves.

    A weight that mixes channels has two axes or more; parameters of fewer are taken for biases and scales.
    """
    claimed = {claim.path for claim in claims}
    for path, module in model.named_modules():
        if type(module) is nn.Linear and path not in claimed:
            yield Rejected(path, "Linear", kind=RejectionKind.unjudged)
        if _is_torchs_own(module) or CHILD in path.split("."):
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim > 1 and not any(f"{name}.".startswith(f"{above}.".lstrip(".")) for above in claimed):
                yield Rejected(name, type(module).__name__, kind=RejectionKind.unjudged)


def _is_torchs_own(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's, or TorchScript, whose operations no run shows."""
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return False
    is_layer = type(module).__module__.startswith("torch.nn.modules.") and type(module) is not nn.Module
    return is_layer or isinstance(module, torch.jit.ScriptModule)


def _united(found: Iterable[Site | Rejected]) -> list[Site | Rejected]:
    """Each op once: a module reached twice, or a weight shared by two modules, is one site."""
    entries: list[Site | Rejected] = []
    claimed: set[Hashable] = set()
    first_with: dict[Hashable, int] = {}
    for entry in found:
        if isinstance(entry, Site):
            op = (id(entry.module), entry.map.intercepts)
            if op in claimed:
                continue
            claimed.add(op)
            index = first_with.setdefault(_identity(entry), len(entries))
            if index < len(entries):
                entries[index] = _tied(entries[index], entry)
                continue
        entries.append(entry)
    return entries


def _alone(model: nn.Module, found: Sequence[Site | Rejected], *, symmetrise: bool) -> list[Site | Rejected]:
    """Ordinary convolutions are sites only in a model without other layers, whose outputs may carry anything."""
    ordinary = {path for path, module in model.named_modules(remove_duplicate=False) if type(module) in CONVOLUTIONS}
    others = sorted({entry.map.op if isinstance(entry, Site) else entry.op for entry in found if entry.path not in ordinary})
    reason = f"next to {', '.join(others)} its channels may carry anything"
    result: list[Site | Rejected] = []
    for entry in found:
        if not (isinstance(entry, Site) and _is_symmetrised(entry)) or (symmetrise and not others):
            result.append(entry)
        elif symmetrise:
            result.append(Rejected(entry.path, entry.map.op, reason))
    return result


def _is_symmetrised(site: Site) -> bool:
    return site.map.convolution is not None and site.map.convolution.kernel.symmetriser is not None


def _identity(site: Site) -> Hashable:
    """Equal for two sites that are one: they share the weight, if not the bias, and use it in the same way."""
    map_, module = site.map, site.module
    own = {name for name, _ in module.named_parameters(recurse=False)}
    linear = set() if map_.convolution is None else {map_.convolution.kernel.parameter}
    parameters = {path.parameter for path in map_.paths} or set(map_.intercepts) or linear or own
    weights = tuple(id(module.get_parameter(name)) for name in sorted(parameters))
    use = (map_.rep_in.blocks, map_.rep_out.blocks, map_.features_in, map_.features_out, map_.argument, map_.paths)
    return (weights or id(module), use)


def _tied(first: Site | Rejected, other: Site) -> Site:
    assert isinstance(first, Site)
    aliases = (*first.aliases, (other.path, other.module))
    return replace(first, aliases=aliases, error=partial(_worst, first.error, other.error))


def _worst(*errors: Callable[[], float]) -> float:
    """The largest, or NaN if one is."""
    return float(torch.tensor([error() for error in errors], dtype=torch.float64).max())


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
