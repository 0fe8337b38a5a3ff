"""Graphs are swapped as their models are: modules, and operators that call parameters by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from strategies import random
from torch import Tensor, fx, nn

from relaxify import lconvify, unlconvify
from relaxify.lconv import LConv
from relaxify.lconv.layer import LinearLConv

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
IMAGES = random(2, 2, 8, 8)


class Net(nn.Module):
    """Convolutions of several settings, both ways, a linear layer, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Linear(2 * 64, 5)
        self.twice = nn.Linear(5, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.up(self.grouped(x))
        return self.twice(self.twice(self.head(x.flatten(1))).relu())


def net() -> Net:
    return Net().double().eval()


def program() -> torch.export.ExportedProgram:
    return torch.export.export(net(), (IMAGES,))


GRAPHS: dict[str, tuple[Callable[[], fx.GraphModule], int]] = {
    "symbolic trace": (lambda: fx.symbolic_trace(net()), 5),
    "program": (lambda: program().module(), 4),
    "operators of a program": (lambda: program().run_decompositions().module(), 4),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_swapped_to_the_same_function(name: str) -> None:
    """Exported, a layer that is used twice is two operators on one weight, and stays."""
    make, count = GRAPHS[name]
    graph = make()
    model = lconvify(graph, example_inputs=(IMAGES,))
    assert sum(isinstance(layer, LConv | LinearLConv) for layer in model.modules()) == count
    expected = net()(IMAGES)
    torch.testing.assert_close(model(IMAGES), expected)
    assert [*model.state_dict()] == [*graph.state_dict()] == [*net().state_dict()]
    torch.testing.assert_close(unlconvify(model)(IMAGES), expected)
    graph.recompile()
    assert graph.code == make().code, "the graph that was given is the graph that it was"


def test_a_program_is_swapped_on_its_own_inputs() -> None:
    torch.testing.assert_close(lconvify(program(), mode="exact")(IMAGES), net()(IMAGES))
