"""Graphs that users hand over, whoever made them: sites, training, projection and faults are those of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from strategies import random
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from relaxify import inspect, penalty, plan, project, projected, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of

# torch's own, while it traces and exports
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*global hooks on modules.*:UserWarning"),
]
POINTS = random(4, 3, 20).float()


class Mix(nn.Module):
    """A Vector Neurons layer: channels mixed on axis 1 of (batch, channels, 3, points)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.map_to_feat = nn.Linear(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.map_to_feat(x.transpose(1, -1)).transpose(1, -1)


class Net(nn.Module):
    """Two layers, a functional op, and a head on invariants."""

    def __init__(self, gate: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Mix(2, 8), Mix(8, 8)
        self.weight = nn.Parameter(torch.randn(4, 8))
        self.head = nn.Linear(4, 5)
        self.is_gated = gate is None

    def forward(self, x: Tensor) -> Tensor:
        v = torch.stack([x, x - x.mean(-1, keepdim=True)], 1)
        v = self.second(self.first(v))
        v = v * torch.sigmoid(v.norm(dim=2, keepdim=True)) if self.is_gated else v.relu()
        v = torch.einsum("oc,bcdn->bodn", self.weight, v)
        return self.head(v.norm(dim=2).mean(-1))


def broken() -> Net:
    return Net(torch.relu)


RELU = f"{__file__}:{Net.forward.__code__.co_firstlineno + 3}"


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model, (POINTS,))


GRAPHS: dict[str, Callable[[nn.Module], Any]] = {
    "symbolic trace": fx.symbolic_trace,
    "program": exported,
    "module of a program": lambda model: exported(model).module(),
    "operators of a program": lambda model: exported(model).run_decompositions().module(),
    "unflattened program": lambda model: torch.export.unflatten(exported(model)),
    "dynamo": lambda model: torch._dynamo.export(model)(POINTS)[0],
    "operators as they ran": lambda model: make_fx(model)(POINTS),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_trains_as_its_model_does(name: str) -> None:
    graph, model = GRAPHS[name](Net()), Net()
    given = None if name == "program" else (POINTS,)
    graph = relaxify(graph, "SO(3)", example_inputs=given)
    relaxify(model, "SO(3)", example_inputs=(POINTS,))
    ours, theirs = terms_of(graph), terms_of(model)
    assert len(ours) == 3
    assert not any(parameter.endswith("head.weight") for parameter in ours)
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        noise = random(*one.weight.shape, seed=1).float()
        one.weight.data, other.weight.data = noise.clone(), noise.clone()
    losses = []
    for each in (graph, model):
        set_theta(each, 0.5)
        loss = each(POINTS).square().mean()
        loss.backward()
        losses.append(loss.detach())
        with torch.no_grad():
            for parameter in each.parameters():
                parameter -= 1e-3 * parameter.grad
    torch.testing.assert_close(*losses)
    assert penalty(graph) > 0
    clean = project(graph)
    torch.testing.assert_close(clean(POINTS), project(model)(POINTS))
    with projected(graph):
        torch.testing.assert_close(clean(POINTS), graph(POINTS))
    assert not terms_of(clean)


@pytest.mark.parametrize("name", [name for name in GRAPHS if "unflattened" not in name])
def test_a_projected_graph_is_the_graph_that_it_was(name: str) -> None:
    given = GRAPHS[name](Net())
    graph = given.module() if name == "program" else given
    clean = project(relaxify(graph, "SO(3)", example_inputs=(POINTS,)))
    untouched = GRAPHS[name](Net())
    untouched = untouched.module() if name == "program" else untouched
    assert clean.code == untouched.code
    assert [*clean.state_dict()] == [*untouched.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(clean.parameters(), untouched.parameters(), strict=True))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_fault_is_named_where_the_graph_was_traced_from(name: str) -> None:
    graph = GRAPHS[name](broken())
    report = inspect(graph, "SO(3)", *(() if name == "program" else (POINTS,)))
    assert not report.is_sound
    assert report.fault is not None
    assert (report.fault.op, report.fault.kind) == ("relu", "nonlinearity")
    # a symbolic trace and make_fx keep no lines; nodes have names
    has_lines = name not in ("symbolic trace", "operators as they ran")
    assert report.fault.location == (RELU if has_lines else "%relu")


def test_without_inputs_each_weight_of_a_graph_is_listed() -> None:
    listed = plan(exported(Net()).module(), "SO(3)").rejected
    assert {"first.map_to_feat.weight", "second.map_to_feat.weight", "weight"} <= {entry.path for entry in listed}


def test_a_program_has_inputs_by_name_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x) * scale

    x, scale = random(9, 3, 2).float(), torch.ones(1)
    program = torch.export.export(Named(), (), {"x": x, "scale": scale})
    assert [site.path for site in plan(program, "SO(3)").sites] == ["layer.weight"]
    with pytest.raises(ValueError, match="export it with all by position"):
        plan(torch.export.export(Named(), (x,), {"scale": scale}), "SO(3)")


def test_a_graph_whose_parameters_are_inputs_says_where_they_are() -> None:
    with pytest.raises(ValueError, match=r"takes its parameters as inputs \(p_weight and 4 more\).* pass the model"):
        plan(exported(Net()).graph_module, "SO(3)", example_inputs=(POINTS,))
    caught: list[fx.GraphModule] = []
    torch._dynamo.reset()
    torch.compile(Net(), backend=lambda graph, _: caught.append(graph) or graph)(POINTS)
    with pytest.raises(ValueError, match="takes its parameters as inputs"):
        plan(caught[0], "SO(3)", example_inputs=(POINTS,))
