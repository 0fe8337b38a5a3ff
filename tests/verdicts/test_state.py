"""Runs of a copy start from what the model keeps, and that stays what it is: containers of a class of one's own too."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor, nn

from relaxify import inspect, plan
from relaxify.verdicts.state import State


class Widths(dict[int, int]):
    """How many channels there are of each degree; it is made of pairs, and knows more than a dict does."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        super().__init__(pairs)
        self.order = [degree for degree, _ in pairs]

    @property
    def largest(self) -> int:
        return max(self.order)


class Seen(list[float]):
    """Numbers, and a mean of them."""

    @property
    def mean(self) -> float:
        return sum(self) / max(1, len(self))


class Names(set[str]):
    @property
    def longest(self) -> int:
        return max(map(len, self))


class Past(deque[float]):
    @property
    def total(self) -> float:
        return sum(self)


class Mixed(nn.Module):
    """Vectors mixed by as many channels as a container of the model's own class says, and scaled by what others say."""

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.nested = Widths([(0, 2), (1, 4)]), {"names": Names({"a", "bc"})}
        self.seen, self.past = Seen([1.0]), Past([1.0], maxlen=2)
        self.mix = nn.Linear(1, self.widths[1], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.widths.largest + self.nested["names"].longest + self.seen.mean + self.past.total
        self.seen.append(2.0)
        self.past.append(3.0)
        y: Tensor = self.mix(x.unsqueeze(-1)).sum(-1) * scale
        return y


def test_a_model_with_containers_of_its_own_classes_is_judged() -> None:
    model, x = Mixed(), torch.randn(5, 3)
    assert [site.path for site in plan(model, "O(3)", example_inputs=x).sites] == ["mix"]
    assert inspect(model, "O(3)", x).is_sound
    assert (model.seen, list(model.past)) == ([1.0], [1.0])


@pytest.mark.parametrize("name", ["widths", "seen", "past"])
def test_a_container_keeps_its_class_and_its_attributes(name: str) -> None:
    model = Mixed()
    state = State(model)
    before = getattr(model, name)
    model(torch.randn(5, 3))
    state.restore()
    after = getattr(model, name)
    assert type(after) is type(before)
    assert vars(after) == vars(before)
    assert list(after) == {"widths": [0, 1], "seen": [1.0], "past": [1.0]}[name]
    assert getattr(after, "maxlen", 2) == 2


def test_what_a_container_holds_is_set_back() -> None:
    model = Mixed()
    state = State(model)
    model.nested["names"].add("long name")
    model.widths[7] = 7
    state.restore()
    assert model.nested["names"] == {"a", "bc"}
    assert type(model.nested["names"]) is Names
    assert model.widths == {0: 2, 1: 4}
