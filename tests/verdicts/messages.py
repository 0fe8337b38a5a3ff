"""Input that cannot be judged, and what the sentence that refuses it must name: python -m verdicts.messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relaxify import Group, inspect, plan
from relaxify.testing import assert_equivariant
from verdicts.parts import linear, plain

VERBS = ("inspect", "plan", "assert_equivariant")


def vectors() -> nn.Module:
    return plain(lambda self, x: self.mix(x[..., None]), mix=linear(1, 4))()


def images() -> nn.Module:
    return nn.Conv2d(1, 2, 3, padding=1)


def giving(output: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return plain(lambda self, x: output(self.mix(x[..., None])), mix=linear(1, 4))


def on_meta() -> nn.Module:
    return vectors().to("meta")


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))


def compiled() -> nn.Module:
    return torch.compile(vectors(), backend="eager")


def failing() -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("sizes of the user's own do not fit")

    return plain(forward)()


class Opaque:
    """What no tensor is found in."""


@dataclass(frozen=True)
class Bad:
    """A call, and patterns of which each stands in what it says."""

    name: str
    says: tuple[str, ...]
    inputs: Callable[[], tuple[Any, ...]] = lambda: (torch.randn(20, 3),)
    group: Any = "SO(3)"
    make: Callable[[], nn.Module] = vectors
    more: dict[str, Any] = field(default_factory=dict)
    verbs: tuple[str, ...] = VERBS
    undecided: bool = False
    """Whether `inspect` and `plan` say it in what they return, instead of raising it."""

    @property
    def calls(self) -> list[str]:
        return [f"{self.name}, {verb}" for verb in self.verbs]


BAD = (
    Bad("NaN among the inputs", ("input", "NaN|not finite"), lambda: (torch.full((20, 3), torch.nan),)),
    Bad("infinity among the inputs", ("input", "inf|not finite"), lambda: (torch.full((20, 3), torch.inf),)),
    Bad(
        "whole numbers as coordinates",
        ("input", "int64|integer|floating", "float"),
        lambda: (torch.ones(20, 3, dtype=torch.long),),
    ),
    Bad(
        "no axis of the group's size",
        (r"\(20, 5\)", r"SO\(3\)", "input_action", "size 3"),
        lambda: (torch.randn(20, 5),),
        make=lambda: nn.Linear(5, 2),
    ),
    Bad(
        "two axes of the group's size",
        (r"\(7, 3, 3\)", r"SO\(3\)", "ambiguous", "input_action"),
        lambda: (torch.randn(7, 3, 3),),
        make=lambda: nn.Linear(3, 3),
    ),
    Bad(
        "a batch of two images",
        (r"\(2, 1, 9, 9\)", "MovePixels", "ambiguous"),
        lambda: (torch.randn(2, 1, 9, 9),),
        "C(4)",
        images,
    ),
    Bad(
        "an image that is not square", (r"\(3, 1, 12, 13\)", "square"), lambda: (torch.randn(3, 1, 12, 13),), "C(4)", images
    ),
    Bad("turns that move pixels between pixels", (r"C\(8\)", r"C\(4\)"), lambda: (torch.randn(3, 1, 9, 9),), "C(8)", images),
    Bad("all turns of pixels", (r"SO\(2\)", r"C\(4\)"), lambda: (torch.randn(3, 1, 9, 9),), "SO(2)", images),
    Bad("an unknown group", ("SU", r"SO\(n\), O\(n\)"), group="SU(3)"),
    Bad("a group that is no name", ("3", "name|Group"), group=3),
    Bad("the wrong number of inputs", ("x|argument|position",), lambda: (torch.randn(20, 3), torch.randn(20, 3))),
    Bad("no inputs", ("input", "example|pass|give"), lambda: (), verbs=("inspect", "assert_equivariant")),
    Bad(
        "inputs both by position and by name",
        ("position", "name", "keywords"),
        more={"keywords": {"x": torch.randn(20, 3)}},
        verbs=("inspect", "assert_equivariant"),
    ),
    Bad(
        "an output without tensors",
        ("output", "tensor", "Normal"),
        make=giving(lambda v: torch.distributions.Normal(v, 1.0)),
        undecided=True,
    ),
    Bad(
        "an output of the user's own class", ("output", "tensor", "Opaque"), make=giving(lambda v: Opaque()), undecided=True
    ),
    Bad(
        "an array of numpy's",
        ("output", "tensor", "ndarray|numpy"),
        make=giving(lambda v: v.detach().numpy()),
        undecided=True,
    ),
    Bad("no output", ("output", "tensor", "None"), make=giving(lambda v: None), undecided=True),
    Bad(
        "an array of numpy's as input",
        ("input", "numpy|ndarray", "from_numpy|as_tensor|tensor"),
        lambda: (torch.randn(20, 3).numpy(),),
    ),
    Bad("weights on meta", ("meta", "mix"), make=on_meta),
    Bad("lazy weights", ("0|lazy|Lazy|uninitiali", "run|call|forward|pass"), make=lazy),
    Bad("a compiled model", ("compile", "bare|before|first|_orig_mod"), make=compiled, verbs=("plan",)),
    Bad("a forward that fails", ("Net|model", "sizes of the user's own do not fit"), make=failing),
    Bad(
        "an action that changes shapes",
        ("input_action", r"\(20, 3\)", "shape"),
        more={"input_action": lambda g, inputs: (inputs[0][:5],)},
    ),
    Bad("an action that returns a tensor", ("input_action", "tuple"), more={"input_action": lambda g, inputs: inputs[0]}),
    Bad(
        "an action that does nothing",
        ("input_action", "no input|unchanged|nothing|not move|same"),
        more={"input_action": lambda g, inputs: inputs},
    ),
    Bad(
        "generators in a list",
        ("tensor|stack",),
        lambda: ([torch.tensor([[0.0, -1.0], [1.0, 0.0]])],),
        verbs=("from_generators",),
    ),
    Bad(
        "irreps of another size", ("x", r"\(20, 3\)|3", "4x0e|16|7"), group="O(3)", more={"input_irreps": {"x": "4x0e+4x1o"}}
    ),
    Bad("irreps of an input that is not there", ("y", "x"), group="O(3)", more={"input_irreps": {"y": "1o"}}),
    Bad("irreps that are none", ("8x", "irreps"), group="O(3)", more={"input_irreps": {"x": "8x"}}),
)


def call(verb: str, bad: Bad) -> Any:
    model, inputs = bad.make(), bad.inputs()
    if verb == "plan":
        return plan(model, bad.group, example_inputs=inputs, **bad.more)
    if verb == "from_generators":
        return Group.from_generators(*inputs)
    return {"inspect": inspect, "assert_equivariant": assert_equivariant}[verb](model, bad.group, *inputs, **bad.more)


def said(verb: str, bad: Bad) -> tuple[str, str]:
    """The kind of what was raised, and its words; or what is undecided, and why."""
    try:
        found = call(verb, bad)
    except Exception as error:
        # what is more than a ValueError is one still
        kinds = [kind for kind in (ValueError, TypeError) if isinstance(error, kind)]
        return (kinds or [type(error)])[0].__name__, str(error)
    return ("undecided", f"{found.verdict.why}.") if bad.undecided and not found.verdict.is_sound else ("", "")


def main() -> None:
    torch.manual_seed(0)
    found = {f"{bad.name}, {verb}": said(verb, bad) for bad in BAD for verb in bad.verbs}
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
