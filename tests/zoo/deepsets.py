"""DeepSets: permutation-equivariant layers x A + mean(x) B on sets (Zaheer et al. 2017, arXiv 1703.06114, Lemma 3).

A acts on features that S(n) permutes along the set axis; B acts on the mean, which S(n) leaves alone. A bias is the same
for every element, so it keeps the symmetry, which it would not on vectors.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.entry import Entry, along, paths, unchanged


class MeanLayer(nn.Module):
    """x A + b + mean(x) B."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.A = nn.Linear(width_in, width_out)
        self.B = nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: Float[Tensor, "*batch n f"]) -> Float[Tensor, "*batch n g"]:
        return self.A(x) + self.B(x.mean(dim=-2, keepdim=True))


class MaxLayer(nn.Module):
    """(x - max(x)) A + b."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.A = nn.Linear(width_in, width_out)

    def forward(self, x: Float[Tensor, "*batch n f"]) -> Float[Tensor, "*batch n g"]:
        return self.A(x - x.amax(dim=-2, keepdim=True))


class ParameterLayer(nn.Module):
    """x A + mean(x) B with A and B in the forward itself."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(width_in, width_out) / width_in**0.5)
        self.B = nn.Parameter(torch.randn(width_in, width_out) / width_in**0.5)

    def forward(self, x: Float[Tensor, "batch n f"]) -> Float[Tensor, "batch n g"]:
        return torch.einsum("bnf,fg->bng", x, self.A) + (x.mean(dim=1) @ self.B).unsqueeze(1)


class SetToSet(nn.Module):
    """One score for every element."""

    def __init__(self, layer: type[nn.Module], width_in: int = 4, width: int = 7) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer(width_in, width), nn.Tanh(), layer(width, width), nn.Tanh(), layer(width, 1))

    def forward(self, x: Float[Tensor, "batch n f"]) -> Float[Tensor, "batch n"]:
        return self.layers(x).squeeze(-1)


class SetToLabel(nn.Module):
    """rho(sum_n phi(x_n)): logits of the whole set."""

    def __init__(self, layer: type[nn.Module], width_in: int = 4, width: int = 7) -> None:
        super().__init__()
        self.phi = nn.Sequential(layer(width_in, width), nn.Tanh(), layer(width, width))
        self.rho = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x: Float[Tensor, "batch n f"]) -> Float[Tensor, "batch classes"]:
        return self.rho(self.phi(x).sum(dim=1))


def permute(g: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (along(1)(g, inputs[0]),)


SOURCE = "Zaheer et al. 2017, arXiv 1703.06114"


def entry(name: str, make: type[nn.Module], layer: type[nn.Module], layers: frozenset[str], notes: str) -> Entry:
    """Elements are on axis 1 of the input [16, 5, 4], and of the output if there is one score for each."""
    return Entry(
        name=name,
        source=SOURCE,
        group="S(5)",
        make=partial(make, layer),
        inputs=lambda: (torch.randn(16, 5, 4),),
        expected=frozenset(f"{path}.A" for path in layers),
        invariant=frozenset(f"{path}.B" for path in layers if layer is not MaxLayer)
        | (paths("rho.0", "rho.2") if make is SetToLabel else frozenset()),
        input_action=permute,
        output=along(1) if make is SetToSet else unchanged,
        notes=notes,
    )


SCORES = paths("layers.{i}", i=(0, 2, 4))
LABEL = paths("phi.{i}", i=(0, 2))

ENTRIES = (
    entry(
        "DeepSets",
        SetToSet,
        MeanLayer,
        SCORES,
        "A has a bias, which is sound; B acts on the mean, kept as an axis of size 1.",
    ),
    entry("DeepSets max", SetToLabel, MaxLayer, LABEL, "A acts on the difference from a maximum."),
    entry(
        "DeepSets parameters", SetToLabel, ParameterLayer, LABEL, "an einsum and a matmul with the layer's own Parameters."
    ),
)
