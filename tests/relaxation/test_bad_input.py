"""Bad input: every message names the thing, says why, and how to fix it, in one line, and nothing is changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from e3nn import o3
from networks import VNNet, anatomy, unchecked, vn_net
from torch import nn

from relaxify import (
    ACE,
    RECM,
    RPP,
    Constant,
    Cosine,
    Monitor,
    RelaxConfig,
    Triangle,
    add_terms,
    param_groups,
    penalties,
    penalty,
    plan,
    project,
    projected,
    relaxation_parameters,
    relaxed,
    relaxify,
    set_theta,
    summary,
    thetas,
)
from relaxify_examples.models.vector_neurons import VNLinear


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> bool:
    message = str(error.value)
    assert "\n" not in message
    return all(part in message for part in parts)


@pytest.fixture(name="unchecked")
def _unchecked() -> Iterator[None]:
    with unchecked():
        yield


REFUSALS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "SE(1)": ({"group": "SE(1)"}, ["unknown group 'SE(1)'", "SE(n)"]),
    "unknown group": ({"group": "SU(3)"}, ["unknown group 'SU(3)'", "SO(n), O(n)", "Group.from_generators"]),
    "include": ({"include": ["conv", "hed"]}, ["include", "'hed' matches none of the candidates", "conv.map_to_feat"]),
    "exclude": ({"exclude": ["*.nothing"]}, ["exclude", "'*.nothing' matches no", "head.map_to_feat"]),
    "overrides": ({"overrides": {"hed": RelaxConfig()}}, ["overrides", "'hed' matches no", "head.map_to_feat"]),
    "regex that matches nothing": ({"include": ["re:hea"]}, ["include", "'re:hea' matches no", "head.map_to_feat"]),
    "bad regex": ({"exclude": ["re:(head"]}, ["exclude", "'re:(head' is not a regular expression", "unterminated", "fix"]),
    "type": ({"exclude": [nn.Conv2d]}, ["exclude", "Conv2d'> matches none of the candidates", "head.map_to_feat"]),
    "predicate": (
        {"include": [lambda path, module: False]},
        ["include", "matches none of the candidates", "head.map_to_feat"],
    ),
    "one string": ({"include": "head"}, ["include='head'", "a sequence", "include=['head']"]),
    "one string, excluded": ({"exclude": "head"}, ["exclude='head'", "a sequence", "exclude=['head']"]),
    "everything excluded": ({"exclude": ["*"]}, ["no layer of the model can be relaxed", "'conv.map_to_feat'", "excluded"]),
    "another group": ({"group": "SO(2)"}, ["no layer of the model can be relaxed for SO(2)", "3 components", "acts on 2"]),
}


@pytest.mark.parametrize("problem", REFUSALS)
def test_arguments(problem: str) -> None:
    arguments, parts = REFUSALS[problem]
    model, before = (net := VNNet()), anatomy(net)
    with pytest.raises(ValueError, match=r".") as error:
        relaxify(model, **{"group": "SO(3)", **arguments})
    assert says(error, *parts)
    assert anatomy(model) == before


WRONG_TYPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "one type": ({"include": VNLinear}, ["include=<class", "a sequence"]),
    "one number": ({"exclude": [3]}, ["exclude: 3 is not a pattern", "globs"]),
    "list of overrides": ({"overrides": ["head"]}, ["overrides=['head']", "a dict"]),
    "override": ({"overrides": {"head": {"rank": 2}}}, ["overrides['head']={'rank': 2}", "RelaxConfig(rank=16)"]),
    "config": ({"config": {"rank": 2}}, ["config={'rank': 2}", "RelaxConfig(rank=16)"]),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("problem", WRONG_TYPES)
def test_arguments_of_the_wrong_type(problem: str) -> None:
    arguments, parts = WRONG_TYPES[problem]
    model, before = (net := VNNet()), anatomy(net)
    with pytest.raises(ValueError, match=r".") as error:
        relaxify(model, "SO(3)", **arguments)
    assert says(error, *parts)
    assert anatomy(model) == before


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("thing", "name"), [("model.pt", "str"), (None, "NoneType"), (VNLinear, "type"), ({}, "dict")])
def test_not_a_module(thing: object, name: str) -> None:
    for verb in (relaxify, plan):
        with pytest.raises(ValueError, match=r".") as error:
            verb(thing, "SO(3)")
        assert says(error, f"not {name}", "nn.Module", "pass the model itself")


@pytest.mark.usefixtures("unchecked")
def test_patterns_may_come_from_a_generator() -> None:
    result = plan(VNNet(), "SO(3)", include=(name for name in ["head"]))
    assert [site.path for site in result.sites] == ["head.map_to_feat"]


def test_no_equivariant_layer_lists_what_was_looked_at() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    for arguments in ({}, {"include": ["0"]}):
        with pytest.raises(ValueError, match="no equivariant layer found for SO") as error:
            relaxify(model, "SO(3)", **arguments)
        assert says(error, "among 2 Linear, 1 ReLU, 1 Sequential", "install the adapter for its library")


def test_layers_that_cannot_break_the_symmetry_are_named() -> None:
    with pytest.raises(ValueError, match="no layer of the model can be relaxed") as error:
        relaxify(nn.Sequential(o3.Linear("4x0e", "2x0e"), nn.ReLU()), "SO(3)")
    assert says(error, "'0' (o3.Linear)", "invariant -> invariant")


def test_at_most_five_reasons_are_spelled_out() -> None:
    with pytest.raises(ValueError, match="and 2 more") as error:
        relaxify(nn.Sequential(*(VNLinear(2, 2) for _ in range(7))), "SO(2)")
    assert says(error, "'4.map_to_feat'")
    assert "'5.map_to_feat'" not in str(error.value)


def compiled_in_place() -> nn.Module:
    model = VNNet()
    model.compile()
    return model


def compiled_inside() -> nn.Module:
    model = VNNet()
    model.head = torch.compile(model.head)
    return model


class Engine(nn.DataParallel):
    """Some trainer's own wrapper."""


WRAPPED = {
    "torch.compile": (lambda: torch.compile(VNNet()), ["the model", "torch.compile after it"]),
    "compile()": (compiled_in_place, ["the model", "compile() after it"]),
    "a compiled layer": (compiled_inside, ["module 'head'", "torch.compile after it"]),
    "DataParallel": (lambda: nn.DataParallel(VNNet()), ["the model", "DataParallel after it"]),
    "a subclass": (lambda: Engine(VNNet()), ["the model", "DataParallel after it"]),
    "a wrapped part": (lambda: nn.Sequential(nn.DataParallel(VNNet())), ["module '0'", "DataParallel after it"]),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_a_wrapped_model_is_refused_with_the_order_to_follow(wrapper: str) -> None:
    wrap, parts = WRAPPED[wrapper]
    model = wrap()
    before = anatomy(model)
    with pytest.raises(ValueError, match="already wrapped") as error:
        relaxify(model, "SO(3)")
    assert says(error, "ignore hooks", "call relaxify(model, ...) on the bare model first", *parts)
    assert anatomy(model) == before


def test_a_distributed_model_is_refused_and_a_relaxed_one_can_be_distributed() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="DistributedDataParallel after it"):
            relaxify(nn.parallel.DistributedDataParallel(VNNet()), "SO(3)")
        model, group, batch = vn_net()
        wrapped = nn.parallel.DistributedDataParallel(relaxify(model, group, exclude=["pool", "conv.map_to_dir"]))
        theta = Triangle(wrapped, total_steps=4)
        theta.step()
        (wrapped(*batch).square().mean() + penalty(wrapped)).backward()
        assert model.head.map_to_feat.relaxation.weight.grad.any()
        assert summary(wrapped).layers.keys() == {"module.conv.map_to_feat", "module.head.map_to_feat"}
    finally:
        dist.destroy_process_group()


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(VNLinear(3, 4), torch.randn(2, 3, 3, 5))


def with_value(name: str, value: float) -> nn.Module:
    model = VNNet()
    model.get_parameter(name).data[0, 0] = value
    return model


def part(dtype: torch.dtype) -> nn.Module:
    model = VNNet()
    model.head.to(dtype)
    return model


UNFIT: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "scripted": (scripted, ["TorchScript", "takes no hooks", "relaxify the Python model"]),
    "lazy": (lambda: nn.Sequential(VNNet(), nn.LazyLinear(2)), ["'1.weight' is lazy", "no shape", "run one forward pass"]),
    "meta": (
        lambda: VNNet().to("meta"),
        ["'conv.map_to_feat.weight' is on the meta device", "no values", "load or"],
    ),
    "half": (lambda: part(torch.float16), ["'head.map_to_feat.weight' is float16", "too coarse", "torch.autocast"]),
    "bfloat16": (lambda: part(torch.bfloat16), ["'head.map_to_feat.weight' is bfloat16", "too coarse", "torch.autocast"]),
    "NaN": (lambda: with_value("conv.map_to_dir.weight", float("nan")), ["'conv.map_to_dir.weight' has NaN", "restore"]),
    "infinite": (lambda: with_value("head.map_to_feat.weight", float("inf")), ["'head.map_to_feat.weight' has NaN or inf"]),
}


@pytest.mark.parametrize("state", UNFIT)
def test_models_that_are_not_ready(state: str) -> None:
    build, parts = UNFIT[state]
    model = build()
    before = [] if state == "scripted" else anatomy(model)
    for verb in (relaxify, plan):
        with pytest.raises(ValueError, match=r".") as error:
            verb(model, "SO(3)")
        assert says(error, *parts)
    assert state == "scripted" or anatomy(model) == before


def test_the_bias_of_a_tied_layer_is_looked_at_too() -> None:
    model = nn.ModuleList(o3.Linear("2x0e+2x1o", "2x0e+2x1o", biases=True) for _ in range(2))
    model[1].weight = model[0].weight
    model[1].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"'1\.bias' has NaN"):
        relaxify(model, "O(3)")


def test_layers_left_out_may_be_in_any_state() -> None:
    model = relaxify(part(torch.float16), "SO(3)", exclude=["head"])
    assert hasattr(model.conv.map_to_feat, "relaxation")


@pytest.mark.parametrize("taken", [nn.Identity(), "text"])
def test_a_child_or_attribute_named_relaxation(taken: object) -> None:
    model = VNNet()
    model.head.map_to_feat.relaxation = taken
    before = anatomy(model)
    with pytest.raises(ValueError, match=r".") as error:
        relaxify(model, "SO(3)")
    assert says(error, "'head.map_to_feat'", "already has an attribute named 'relaxation'", "rename it, or exclude")
    assert anatomy(model) == before


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("weight", -0.1, ">= 0"),
        ("weight", float("nan"), "finite"),
        ("weight", float("inf"), "finite"),
        ("reduction", "l2", "'rms', 'norm', 'weights' or 'projection'"),
        ("rows", 0, "None for every row"),
        ("rows", -3, "None for every row"),
        ("rank", 0, "at least 1, or None"),
        ("rank", -1, "at least 1, or None"),
        ("theta", float("nan"), "finite"),
        ("theta", float("inf"), "finite"),
        ("init", "ones", "'zeros' or 'normal'"),
        ("std", 0.0, "above 0"),
        ("std", float("nan"), "above 0"),
        ("share", 0.0, "above 0"),
        ("share", -0.1, "above 0"),
        ("share", float("nan"), "above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs(field: str, value: object, advice: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        RelaxConfig(**{field: value})
    assert says(error, f"RelaxConfig({field}={value!r})", advice)


UNRELAXED: dict[str, Callable[[nn.Module], object]] = {
    "set_theta": lambda model: set_theta(model, 1.0),
    "penalty": penalty,
    "penalties": penalties,
    "project": project,
    "summary": summary,
    "Constant": Constant,
    "Triangle": lambda model: Triangle(model, 10),
    "Cosine": lambda model: Cosine(model, 10),
    "relaxed": lambda model: relaxed(model).__enter__(),
}


@pytest.mark.parametrize("verb", UNRELAXED)
def test_verbs_for_relaxed_models_on_a_model_that_is_not(verb: str) -> None:
    with pytest.raises(RuntimeError, match=r".") as error:
        UNRELAXED[verb](VNNet())
    assert says(error, "the model has no relaxation terms", "call relaxify(model, group) first")


def test_a_model_that_is_not_relaxed_is_projected() -> None:
    model, _, batch = vn_net()
    with projected(model.eval()):
        assert model(*batch).isfinite().all()


def silent_forward(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
    with torch.no_grad():
        model(*batch)


def eval_forward(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
    model.eval()(*batch)
    model.train()


@pytest.mark.parametrize("before", [lambda model, batch: None, silent_forward, eval_forward])
@pytest.mark.parametrize("verb", [penalty, penalties])
def test_a_penalty_before_any_training_pass(before: Callable, verb: Callable) -> None:
    model, group, batch = vn_net()
    before(relaxify(model, group), batch)
    with pytest.raises(RuntimeError, match=r".") as error:
        verb(model)
    assert says(error, "no relaxed layer has seen a training batch", "train() mode", "after a forward pass")


@pytest.mark.usefixtures("unchecked")
def test_a_projection_of_an_unknown_kind() -> None:
    model = relaxify(VNNet(), "SO(3)")
    before = anatomy(model)
    with pytest.raises(ValueError, match=r".") as error:
        project(model, mode="round", inplace=True)
    assert says(error, "project(mode='round')", "unknown", "'drop', 'fold' or 'fit'")
    assert anatomy(model) == before


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_projection_of_a_model_that_is_not_annealed(sign: int, inplace: bool) -> None:
    model = relaxify(VNNet(), "SO(3)")
    set_theta(model, sign * 0.5)
    before = anatomy(model)
    with pytest.raises(ValueError, match=r".") as error:
        project(model, max_theta=0.1, inplace=inplace)
    assert says(error, "theta of 'conv.map_to_feat' is", "above max_theta=0.1", "anneal it", "or raise max_theta")
    assert anatomy(model) == before
    assert project(model, max_theta=0.5) is not model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_theta_that_is_not_finite(value: float) -> None:
    model = relaxify(VNNet(), "SO(3)", config=RelaxConfig(theta=0.5))
    with pytest.raises(ValueError, match=r".") as error:
        set_theta(model, value)
    assert says(error, f"set_theta(model, {value})", "finite", "0 switches")
    assert float(model.head.map_to_feat.relaxation.theta) == 0.5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("total_steps", [0, -1, 2.5, float("nan"), float("inf")])
def test_a_schedule_without_steps(total_steps: float) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Triangle(relaxify(VNNet(), "SO(3)"), total_steps)
    assert says(error, f"total_steps={total_steps}", "at least one", "optimiser steps")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("until", [0, -0.5, 1.5, float("nan"), np.float32(2), None])
@pytest.mark.parametrize("schedule", [Triangle, Cosine, Constant])
def test_a_schedule_until_nowhere(schedule: type, until: float | None) -> None:
    model = relaxify(VNNet(), "SO(3)")
    if schedule is Constant and until is None:
        assert Constant(model, until=None).end == float("inf")
        return
    with pytest.raises(ValueError, match=r".") as error:
        schedule(model, 10, until=until)
    assert says(error, f"until={until}", "this fraction of total_steps", "above 0 and at most 1")


@pytest.mark.parametrize("schedule", [Constant, Triangle, Cosine])
def test_a_schedule_to_infinity(schedule: type) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        schedule(relaxify(VNNet(), "SO(3)"), 10, peak=float("inf"))
    assert says(error, "peak=inf", "finite")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"rows": 2.5}, "rows is an integer or None"),
        ({"rows": True}, "rows is an integer or None"),
        ({"rank": "8"}, "rank is an integer or None"),
        ({"weight": "a"}, "weight is a number"),
        ({"theta": None}, "theta is a number"),
        ({"share": "a"}, "share is a number or None"),
    ],
)
def test_config_values_of_another_kind_are_named(arguments: dict[str, Any], part: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=part):
        RelaxConfig(**arguments)


def test_config_values_may_be_numpys() -> None:
    with unchecked():
        config = RelaxConfig(weight=np.float32(0.5), theta=np.float64(0.25), rows=np.int64(8), rank=np.int32(2))
        model, group, batch = vn_net()
        relaxify(model, group, config=config)(*batch)
        penalty(model).backward()
    assert float(model.head.map_to_feat.relaxation.theta) == 0.25


@pytest.mark.parametrize("bound", [-1.0, float("nan")])
def test_a_bound_on_theta_that_nothing_meets_is_refused(bound: float) -> None:
    model = relaxify(VNLinear(2, 2), "SO(3)")
    with pytest.raises(ValueError, match="it bounds"):
        project(model, max_theta=bound)


def test_a_term_that_would_take_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(o3.Linear("8x1o", "8x1o"), o3.Linear("4x1o", "4x1o"))
    monkeypatch.setattr("relaxify.relaxation.attach.LARGEST_TERM", 24 * 24 - 1)
    before = anatomy(model)
    with pytest.raises(ValueError, match="the dense term of '0' would have 576 parameters") as error:
        relaxify(model, "O(3)")
    assert says(error, "overrides={'0': RelaxConfig(rank=16)}", "exclude it")
    assert anatomy(model) == before
    relaxify(model, "O(3)", overrides={"0": RelaxConfig(rank=2)})


NO_NUMBERS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "text for total_steps": (lambda model: Triangle(model, "20"), "total_steps='20'"),
    "a truth value for total_steps": (lambda model: Triangle(model, True), "total_steps=True"),
    "no peak": (lambda model: Cosine(model, 20, None), "peak=None"),
    "text for until": (lambda model: Constant(model, 20, until="0.5"), "until='0.5'"),
    "text for refold_every": (lambda model: Triangle(model, 20, refold_every="3"), "refold_every='3'"),
    "text for a rate of ACE": (lambda model: ACE(model, 20, primal_rate="0.1"), "primal_rate='0.1'"),
    "text for a rate of RECM": (lambda model: RECM(model, 20, rate="0.1"), "rate='0.1'"),
    "text for a decay of RPP": (lambda model: RPP(model, basic_wd="0.1", equiv_wd=0.1), "basic_wd='0.1'"),
    "text for theta": (lambda model: set_theta(model, "1"), "set_theta(model, '1')"),
    "several numbers for theta": (lambda model: set_theta(model, torch.ones(2)), "theta is a finite number"),
    "text for one theta": (lambda model: set_theta(model, {"*": "a"}), "set_theta(model, 'a')"),
    "text for max_theta": (lambda model: project(model, max_theta="0"), "max_theta='0'"),
    "text for a learning rate": (lambda model: param_groups(model, terms_lr="1e-3"), "terms_lr='1e-3'"),
    "a negative weight decay": (lambda model: param_groups(model, weight_decay=-1), "weight_decay=-1"),
    "text for every": (lambda model: Monitor(model, print, every="9"), "every='9'"),
    "a number for the loss": (lambda model: penalty(seen(model), relative_to=0.5), "is a float: pass the loss itself"),
    "a name for an optimizer": (lambda model: Triangle(model, 20, optimizer="adam"), "a str is no optimizer"),
    "a model for an optimizer": (lambda model: add_terms(model, model), "a VNNet is no optimizer"),
    "a log in no folder": (lambda model: Monitor(model, "nowhere/log.csv"), "its folder does not exist; create it"),
}


def seen(model: nn.Module) -> nn.Module:
    model(*vn_net()[2])
    return model


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("problem", NO_NUMBERS)
def test_what_is_no_number_where_one_is_asked_for(problem: str) -> None:
    call, part = NO_NUMBERS[problem]
    model = relaxify(VNNet(), "SO(3)").train()
    with pytest.raises(ValueError, match=r".") as error:
        call(model)
    assert says(error, part)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("verb", [*UNRELAXED.values(), param_groups, relaxation_parameters, thetas])
@pytest.mark.parametrize("thing", [None, {}, nn.Linear, torch.optim.SGD(nn.Linear(2, 2).parameters())])
def test_verbs_for_relaxed_models_on_what_is_no_model(verb: Callable[[Any], object], thing: object) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        verb(thing)
    assert says(error, type(thing).__name__, "is no model; pass the nn.Module")


def test_inputs_without_a_sample() -> None:
    with pytest.raises(ValueError, match="has no entries") as error:
        relaxify(nn.Sequential(nn.Linear(4, 8, bias=False)), "SO(3)", example_inputs=torch.randn(0, 3, 4))
    assert says(error, "input.0 has shape (0, 3, 4)", "use at least one sample")


@pytest.mark.usefixtures("unchecked")
def test_inference_mode_makes_nothing_that_cannot_be_trained() -> None:
    """As in the validation hooks of trainers, which run in it."""
    model, group, batch = vn_net()
    with torch.inference_mode():
        relaxify(model, group)
        with pytest.raises(ValueError, match="made in torch") as error:
            relaxify(VNNet(), group)
        assert not torch.is_grad_enabled()
    assert says(error, "make the model outside it")
    model.train()(*batch).sum().backward()
    set_theta(model, 0)
    with torch.inference_mode():
        clean = project(model)
    clean(*batch).sum().backward()
    assert clean.conv.map_to_feat.weight.grad is not None
