"""What was judged, or refused, is as it was to the last bit: tensors, attributes, random streams, hooks and modes."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relaxify import inspect, plan, relaxify
from relaxify.modules.copies import parts
from relaxify.testing import assert_equivariant

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


class Vectors(nn.Module):
    """Vectors that a function of them and of the module ends on."""

    def __init__(self, end: Callable[[Vectors, Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.norm, self.drop = nn.Linear(1, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout()
        self.register_buffer("average", torch.ones(4))
        self.random, self.numbers = torch.Generator().manual_seed(5), np.random.default_rng(5)
        self.calls, self.log, self.last = 0, [{"calls": [0]}], {"gate": torch.zeros(4)}
        self.end = end
        self.mix.register_forward_pre_hook(count)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, self.mix(x.unsqueeze(-1)))


def count(module: nn.Module, args: Any) -> None:
    module.seen = getattr(module, "seen", 0) + 1


def writes_attributes(model: Vectors, v: Tensor) -> Tensor:
    model.calls += 1
    model.log[0]["calls"].append(model.calls)
    model.gate = model.last["gate"] = v.norm(dim=1)
    model.last["gate"].detach().mul_(2)
    return v


def writes_buffers(model: Vectors, v: Tensor) -> Tensor:
    model.average.mul_(0.5)
    model.average = model.average + 1
    return v * model.average * model.norm(v.norm(dim=1))[:, None]


def draws_numbers(model: Vectors, v: Tensor) -> Tensor:
    noise = torch.rand(4) + torch.rand(4, generator=model.random) + random.random() + model.numbers.random()
    return model.drop(v.norm(dim=1)) * noise * np.random.rand()  # noqa: NPY002


def writes_its_inputs(model: Vectors, v: Tensor) -> Tensor:
    return v.mul_(2)


def writes_weights(model: Vectors, v: Tensor) -> Tensor:
    with torch.no_grad():
        model.mix.weight.mul_(1.5)
    return v


def moves_modules(model: Vectors, v: Tensor) -> Tensor:
    model.eval()
    model.requires_grad_(False)
    model.extra = nn.Linear(1, 1)
    return v


def breaks(model: Vectors, v: Tensor) -> Tensor:
    return writes_attributes(model, v).relu()


def raises(model: Vectors, v: Tensor) -> Tensor:
    draws_numbers(model, writes_buffers(model, writes_attributes(model, v)))
    raise RuntimeError("no output")


def gives_nothing(model: Vectors, v: Tensor) -> Tensor:
    return [str(writes_attributes(model, v))]  # type: ignore[return-value]


ENDS = [
    writes_attributes, writes_buffers, draws_numbers, writes_its_inputs, writes_weights, moves_modules, breaks, raises,
    gives_nothing,
]  # fmt: skip
VERBS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "plan": lambda model, x: plan(model, "SO(3)", example_inputs=(x,)),
    "inspect": lambda model, x: inspect(model, "SO(3)", x),
    "relaxify": lambda model, x: relaxify(model, "SO(3)", example_inputs=(x,), include=["nothing"]),
    "assert_equivariant": lambda model, x: assert_equivariant(model, "SO(3)", x),
}


def bits(*values: object) -> object:
    """All that an object is, down to the bits of its tensors and the identity of its parts."""
    found, waiting = [], [("", value) for value in values]
    seen: set[int] = set()
    while waiting:
        name, item = waiting.pop()
        found.append((name, id(item) if not isinstance(item, int | float | str) else item, stream(item)))
        if id(item) in seen or isinstance(item, str | bytes | type):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found.append((item.detach().numpy().tobytes(), item.requires_grad, item.grad is None, item._version))
        elif isinstance(item, nn.Module | dict | list | tuple):
            waiting += [(f"{name}.{key}", part) for key, part in parts(item)]
    return found


def stream(item: object) -> object:
    if isinstance(item, torch.Generator):
        return item.get_state().numpy().tobytes()
    return str(item.bit_generator.state) if isinstance(item, np.random.Generator) else None


def of_the_process() -> object:
    """Without Python's stream, of which the type checks of these tests draw."""
    numpys = np.random.get_state()  # noqa: NPY002
    of_torch = torch.get_rng_state().numpy().tobytes(), torch.get_default_dtype(), torch.is_grad_enabled()
    return of_torch, numpys[1].tobytes(), numpys[2:]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_model_is_as_it_was(verb: str, end: Callable[[Vectors, Tensor], Tensor], training: bool) -> None:
    model, x = Vectors(end).train(training), X.clone()
    before = bits(model, x), of_the_process()
    with suppress(ValueError, AssertionError):
        VERBS[verb](model, x)
    assert (bits(model, x), of_the_process()) == before
