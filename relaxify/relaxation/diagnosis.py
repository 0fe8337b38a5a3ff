"""diagnose: whether relaxing can do anything for a model and its data, before it is trained, and what the terms want.

Where the data are as symmetric as the model, the expected gradient by theta W lies in the intertwiners while W does
(principle of symmetric criticality): there a term only doubles its layer. Where poses are given away, it learns the pose.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.graph.exported import AnyModel, opened
from relaxify.groups import Group
from relaxify.intertwiners import intertwiner_basis
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.repeats import Repeats
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.rendered import Rendered
from relaxify.representations import slices

# of what chance leaves: nearer to 1 than to chance, and nearer to chance than to 1
_BETWEEN = (1 / 4, 3 / 4)
# with a larger error, two of which are the distance between the bounds, nothing is said
_UNSURE = 1 / 4
_FEWEST = 3
# a last batch that is filled up from the first ones is no second pass
_MOST_REPEATED = 0.05
_PROBES = 4


@dataclass(frozen=True)
class Carried:
    """How much of E|W x|^2 comes from what W has outside the intertwiners between two irreps."""

    irrep_in: str
    irrep_out: str
    part: float


@dataclass(frozen=True)
class Gradient:
    """The expected gradient G = dL/d(theta W), of one layer or of all, as far as batches tell.

    `equivariant` is |P_H G|^2 / |G|^2, in [0, 1]. Squares are means of inner products of different batches' gradients, for
    a square of their mean would count its noise, which lies where chance has it. `error` is its standard error over the
    batches (leaving out one at a time), at most 1, and `chance` what it is for a random G: the dimension of the
    intertwiners over that of W. `noise` is E|G_b - m|^2 / |m|^2 for the gradients G_b of the batches and their mean m:
    where it is about their number, m is mostly noise. All None where no gradient arrives.
    """

    equivariant: float | None
    error: float | None
    chance: float
    noise: float | None

    @property
    def excess(self) -> float | None:
        """Where the share lies between chance, 0, and 1."""
        if self.equivariant is None or self.chance >= 1:
            return None
        return (self.equivariant - self.chance) / (1 - self.chance)


@dataclass(frozen=True, repr=False)
class Diagnosis(Rendered):
    """What `diagnose` found: each layer's gradient and, if W is not zero, what it carries; and all layers together."""

    page = "diagnosis"

    layers: dict[str, Gradient]
    total: Gradient
    carried: dict[str, tuple[Carried, ...]]
    repeated: float = 0.0
    """How much of the samples came before, in an earlier batch."""

    @property
    def still(self) -> tuple[str, ...]:
        """Layers whose terms no gradient reaches."""
        return tuple(path for path, gradient in self.layers.items() if gradient.equivariant is None)

    @property
    def advice(self) -> str:
        """One sentence."""
        total = self.total
        if total.equivariant is None or total.excess is None:
            return "No gradient reaches any term: relaxing these layers does nothing."
        if self.repeated > _MOST_REPEATED:
            return (
                f"{self.repeated:.0%} of the samples had come before, and their noise counts as gradient: diagnose with "
                "batches of one pass, in which each sample comes once."
            )
        if total.error is not None and total.error > _UNSURE * (1 - total.chance):
            return "The gradient is too noisy to tell: diagnose with more or larger batches."
        if total.excess > _BETWEEN[1]:
            return (
                "The data are about as symmetric as the model, so the terms would only double their layers: start them from "
                'noise, RelaxConfig(init="normal"), or expect no effect.'
            )
        if total.excess < _BETWEEN[0]:
            return (
                "The poses are not uniform, and the terms would learn them: expect an effect while they act, and end theta "
                "early, so that the layers can do without."
            )
        return "The data are less symmetric than the model: expect some effect while the terms act, and end theta early."

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, with the advice."""
        return {**dataclasses.asdict(self), "still": list(self.still), "advice": self.advice}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The layers, a row each."""
        return [{"path": path, **dataclasses.asdict(gradient)} for path, gradient in self.layers.items()]

    def __str__(self) -> str:
        lines = [f"equivariant share of dL/dW: {_line(self.total)}"]
        lines += [f"  {path}: {_line(gradient)}" for path, gradient in self.layers.items()]
        for path, parts in self.carried.items():
            lines += [f"  {path} carries {p.irrep_in} -> {p.irrep_out} beside intertwiners: {p.part:.1%}" for p in parts]
        return "\n".join([*lines, self.advice])


def diagnose(
    model: AnyModel,
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    *,
    group: Group | str | None = None,
    **options: Any,
) -> Diagnosis:
    """The equivariant share of the gradient by theta W beside its chance level, layer by layer and in sum, with advice.

    - `model`: a relaxed model, at any time of its training; or a plain one, which with `group` (and further `options` of
      `relaxify`) is relaxed for this. A copy is worked on: nothing of the model changes.
    - `batches`: samples drawn independently, each once: one pass through a data set, or fresh data.
    - `loss(model, batch)`: a single number; forward and backward run once for each of the `batches`, in training mode. With
      a few of them this takes less than as many training steps, and a projection of every layer for each.

    Where theta is 0 the gradient is that at theta W = 0. ValueError if there are fewer than three batches, if the terms are
    of low rank (of whose W backward makes no gradient), or if the loss is no single number; RuntimeError if the model is
    not relaxed and no group is given.

    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    >>> x = torch.randn(16, 3, 4)
    >>> aligned = [x + torch.tensor([shift, 0.0, 0.0])[:, None] for shift in (1.0, 2.0, 3.0)]
    >>> found = diagnose(model, lambda m, x: (m(x)[:, 0] - 1).square().mean(), aligned, group="SO(3)", example_inputs=x)
    >>> found.total.equivariant < 0.6, round(found.layers["0"].chance, 2)
    (True, 0.11)
    """
    model, inputs = opened(model, options.pop("example_inputs", None))
    twin = copy.deepcopy(model)
    if group is not None and not terms_of(twin):
        relaxify(twin, group, example_inputs=inputs, **options)
    terms = terms_of(twin)
    if not terms:
        raise RuntimeError("the model has no relaxation terms to diagnose; pass group=..., or relaxify(model, group) first.")
    if low := [path for path, term in terms.items() if term.config.rank is not None]:
        raise ValueError(f"the terms of {', '.join(map(repr, low[:3]))} are of low rank; diagnose dense ones (rank=None).")
    _switch_on(twin, terms)
    repeats = Repeats()
    samples = list(_gradients(twin, terms, loss, batches, repeats))
    if len(samples) < _FEWEST:
        raise ValueError("diagnose needs at least three batches, to tell a gradient from its noise.")
    chances = {path: _chance(term) for path, term in terms.items()}
    carried = {path: parts for path, term in terms.items() if (parts := _carried(term))}
    split = {path: _parts(term, torch.stack([sample[path] for sample in samples])) for path, term in terms.items()}
    layers = {path: _gradient([parts], chances[path][0] / chances[path][1]) for path, parts in split.items()}
    chance = sum(inside for inside, _ in chances.values()) / sum(size for _, size in chances.values())
    return Diagnosis(layers, _gradient(list(split.values()), chance), carried, repeats.part)


@torch.no_grad()
def _switch_on(model: nn.Module, terms: dict[str, Term]) -> None:
    """theta = 1, with W zero, where theta is 0: of no effect, but with a gradient."""
    model.train()
    for term in terms.values():
        term.finished = False
        if not bool(term.theta):
            term.weight.zero_()
            term.theta.fill_(1.0)


def _gradients(
    model: nn.Module,
    terms: dict[str, Term],
    loss: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    repeats: Repeats,
) -> Iterable[dict[str, Tensor]]:
    """dL/d(theta W) of each batch."""
    weights = [term.weight for term in terms.values()]
    for batch in batches:
        repeats.add(batch)
        value = loss(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError("diagnose: the loss of a batch is a tensor with a single number; take its mean.")
        found: tuple[Any, ...] = torch.autograd.grad(value.reshape(()), weights, allow_unused=True)
        yield {
            path: (torch.zeros_like(term.weight) if gradient is None else gradient).double().cpu() / float(term.theta)
            for (path, term), gradient in zip(terms.items(), found, strict=True)
        }


# of a layer: the gradients of all batches, and what of them is equivariant
Parts = tuple[Float[Tensor, "batches _"], Float[Tensor, "batches _"]]


@torch.no_grad()
def _parts(term: Term, gradients: Float[Tensor, "batches rows columns"]) -> Parts:
    whole, inside = [], []
    kept = term.weight.clone()
    for gradient in gradients:
        # kinds of terms know P_H and the matrix of their own W
        term.weight.copy_(gradient)
        whole.append(term.matrix.double().cpu().flatten().clone())
        inside.append(term.equivariant_part().flatten())
    term.weight.copy_(kept)
    return torch.stack(whole), torch.stack(inside)


def _gradient(layers: list[Parts], chance: float) -> Gradient:
    size = sum(float(whole.mean(0).square().sum()) for whole, _ in layers)
    if not size:
        return Gradient(None, None, chance, None)
    batches = len(layers[0][0])
    share, left_out = _shares(layers)
    error = float(((batches - 1) * (left_out - left_out.mean()).square().mean()).sqrt())
    noise = sum(float((whole - whole.mean(0)).square().sum()) for whole, _ in layers) / (batches - 1)
    # nan where a square of what is left of the gradient without one batch is no longer above 0
    known = math.isfinite(share) and math.isfinite(error)
    return Gradient(min(max(share, 0.0), 1.0) if known else chance, min(error, 1.0) if known else 1.0, chance, noise / size)


def _shares(layers: list[Parts]) -> tuple[float, Float[Tensor, " batches"]]:
    """The equivariant share of |E x|^2, and without each batch; nan where what it is a share of is not above 0."""
    found = [[_expected_squares(part) for part in parts] for parts in layers]
    (whole, without), (part, part_without) = (
        (sum(square for square, _ in kind), torch.stack([left_out for _, left_out in kind]).sum(0))
        for kind in zip(*found, strict=True)
    )
    return part / whole if whole > 0 else math.nan, torch.where(without > 0, part_without / without, math.nan)


def _expected_squares(samples: Float[Tensor, "batches _"]) -> tuple[float, Float[Tensor, " batches"]]:
    """|E x|^2, without bias, and the same without each sample: the mean of inner products of different samples.

    The sum of products of different samples is |s|^2 - sum |x|^2, s being their sum; without x_k it is |s - x_k|^2 - ...
    """
    count, total, squares = len(samples), samples.sum(0), samples.square().sum(1)
    pairs = total.square().sum() - squares.sum()
    without = pairs - 2 * (samples @ total - squares)
    return float(pairs) / (count * (count - 1)), without / ((count - 1) * (count - 2))


def _chance(term: Term) -> tuple[float, int]:
    """The dimension of the intertwiners, and of all maps; of kernels that a layer can have, from projecting random ones."""
    if term.map.convolution is None:
        inside = 0
        for out, action_out in zip(term.map.rep_out.blocks, term.map.rep_out.actions, strict=True):
            for into, action_in in zip(term.map.rep_in.blocks, term.map.rep_in.actions, strict=True):
                inside += len(intertwiner_basis(action_in, action_out)) * out.multiplicity * into.multiplicity
        return float(inside), term.matrix.numel()
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(_PROBES, *term.weight.shape, generator=generator, dtype=torch.float64)
    whole, part = _parts(term, random.to(term.weight))
    return float(part.square().sum() / whole.square().sum()) * term.weight.numel(), term.weight.numel()


@torch.no_grad()
def _carried(term: Term, most: int = 3) -> tuple[Carried, ...]:
    """The pairs of irreps whose part of W outside the intertwiners carries the most of |W x|; none while W is zero."""
    moment = term.sketch.moment
    if moment is None or term.map.convolution is not None or not bool(term.weight.any()):
        return ()
    weight, moment = term.matrix.double().cpu(), moment.double().cpu()
    rest, whole = weight - term.equivariant_part(), float(torch.einsum("ij,jk,ik->", weight, moment, weight))
    parts: defaultdict[tuple[str, str], float] = defaultdict(float)
    for out, rows in zip(term.map.rep_out.blocks, slices(term.map.rep_out.blocks), strict=True):
        for into, columns in zip(term.map.rep_in.blocks, slices(term.map.rep_in.blocks), strict=True):
            block = rest[rows, columns]
            parts[into.name, out.name] += float(torch.einsum("ij,jk,ik->", block, moment[columns, columns], block))
    largest = sorted(parts.items(), key=lambda item: -item[1])[:most]
    return tuple(Carried(*names, value / whole) for names, value in largest if whole and value > 1e-3 * whole)


def _line(gradient: Gradient) -> str:
    if gradient.equivariant is None:
        return f"no gradient arrives (chance {gradient.chance:.3f})"
    return f"{gradient.equivariant:.3f} +- {gradient.error:.3f}, chance {gradient.chance:.3f}, noise {gradient.noise:.2g}"
