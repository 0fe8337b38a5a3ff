"""One model of the zoo through all that is promised of it: planned, relaxed, trained, projected, reloaded and copied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from relaxify import penalty, project, relaxed, relaxify, set_theta, summary
from relaxify.relaxation import attach
from relaxify.relaxation.plan import Plan
from relaxify.relaxation.terms.term import terms_of
from zoo.entry import Entry, Inputs, call, default_dtype, equivariance_error, flat

MODES = ("drop", "fold", "fit")
STEPS = 3
DIFFERENCES = (1e-7, 1e-8, 1e-9)


@dataclass(frozen=True)
class RoundTrip:
    """What was measured, in float64. Errors are relative: `equivariance_error`.

    `found` are the paths of the terms; `rejected` has the plan's reason for each op without one; `dead` are the terms that
    no gradient reached, `late` those that one reached when other terms had moved; `unexpressed` is, of each term
    that folds, how much of P_H W of a random W its layer cannot take; `second` says how second derivatives
    came out; `faults` names each promise that was not kept.
    """

    entry: Entry
    found: frozenset[str]
    rejected: Mapping[str, str]
    before: float
    relaxed: float | None = None
    after: Mapping[str, float] = field(default_factory=dict)
    unexpressed: Mapping[str, float] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    second: str | None = None
    faults: tuple[str, ...] = ()

    @property
    def idle(self) -> frozenset[str]:
        """The ops without effect that are not relaxed: nothing would come of it."""
        return (self.entry.expected - self.found) & set(self.entry.without_effect)

    @property
    def missed(self) -> frozenset[str]:
        return self.entry.expected - self.found - self.idle

    @property
    def wrong(self) -> frozenset[str]:
        return self.found - self.entry.expected

    @property
    def listed(self) -> frozenset[str]:
        """The ops on invariants that the plan lists as such."""
        said = {path for path, reason in self.rejected.items() if reason.startswith("invariant -> invariant")}
        return self.entry.invariant & said


class Promises:
    """Collects those that are not kept."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def check(self, words: str, kept: Callable[[], bool]) -> None:
        try:
            if not kept():
                self.broken.append(words)
        except Exception as error:
            self.broken.append(f"{words}: {type(error).__name__}: {error}")


def round_trip(entry: Entry) -> RoundTrip:
    """Measure one model. What it or relaxify raises is among the faults, but for having nothing to relax."""
    promises, (model, x) = Promises(), entry.build()
    before, y = equivariance_error(entry, model, x), flat(call(entry, model, x))
    base = copy.deepcopy(model.state_dict())
    plan, error = relax(entry, model, x)
    rejected = {} if plan is None else {r.path.removeprefix(_prefix(entry)): r.reason for r in plan.rejected}
    terms = frozenset(terms_of(model))
    if not terms:
        has_nothing = plan is not None and not plan.sites and not plan.unsound and not entry.expected
        return RoundTrip(entry, terms, rejected, before, faults=() if has_nothing else (f"relaxify raises {error}",))
    set_theta(model, 1.0)
    with relaxed(model):
        promises.check("W = 0 leaves the outputs as they were", lambda: torch.equal(flat(call(entry, model, x)), y))
    reached: list[frozenset[str]] = []
    promises.check(f"{STEPS} optimiser steps", lambda: train(entry, model, x, reached))
    dead = terms.difference(*reached)
    promises.check("summary names the dead terms", lambda: set(summary(model).dead) == dead)
    model.zero_grad()
    after = {mode: check_projected(promises, entry, model, x, base, mode) for mode in MODES}
    promises.check("a copy computes the same and is its own", lambda: is_copied(entry, model, x))
    with relaxed(model):
        error_relaxed = equivariance_error(entry, model, x)
        second = second_derivatives(entry, model, x, weights(model))
    if second != "exact":
        clean = project(model)
        own = second_derivatives(entry, clean, x, list(clean.parameters()))
        second += " with terms" if own == "exact" else ", as without terms" if own == second else f"; without terms {own}"
    return RoundTrip(
        entry,
        terms,
        rejected,
        before,
        error_relaxed,
        after,
        unexpressed=unexpressed(model),
        dead=dead,
        late=terms.difference(*reached[:1]) - dead,
        second=second,
        faults=tuple(promises.broken),
    )


def unexpressed(model: nn.Module) -> dict[str, float]:
    """Of each term that folds, what of the equivariant part of a random W is beyond its layer's weights."""
    twin = copy.deepcopy(model)
    for weight in weights(twin):
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    return {path: layer.unexpressed for path, layer in summary(twin).layers.items() if layer.unexpressed is not None}


class ByPosition(nn.Module):
    """A model that takes all its arguments by position, as example inputs do."""

    def __init__(self, entry: Entry, model: nn.Module) -> None:
        super().__init__()
        self.entry, self.model = entry, model

    def forward(self, *inputs: Any) -> Any:
        return self.entry.call(self.model, inputs)


def _prefix(entry: Entry) -> str:
    return "model." if entry.keywords else ""


def relax(entry: Entry, model: nn.Module, x: Inputs, *, strict: bool = True) -> tuple[Plan | None, str]:
    """relaxify. Returns the plan that it made on the way, and what it raised."""
    plans: list[Plan] = []
    make = attach.plan

    def keep(*args: Any, **options: Any) -> Plan:
        plans.append(make(*args, **options))
        return plans[-1]

    whole = ByPosition(entry, model) if entry.keywords else model
    error = ""
    with mock.patch.object(attach, "plan", keep):
        try:
            relaxify(whole, entry.group, example_inputs=x, input_action=entry.transform, strict=strict)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    return plans[0] if plans else None, error


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for term in terms_of(model).values() for parameter in term.parameters()]


def train(entry: Entry, model: nn.Module, x: Inputs, reached: list[frozenset[str]]) -> bool:
    """Steps of the terms alone, at theta = 1, towards random outputs; adds to `reached` which got a gradient in each."""
    optimiser = torch.optim.Adam(weights(model), lr=0.01)
    model.train()
    for step in range(STEPS):
        torch.manual_seed(step)
        y = differentiable(entry, model, x)[1]
        loss = (y - torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).square().mean() + penalty(model)
        model.zero_grad()
        loss.backward()
        terms = terms_of(model).items()
        reached.append(frozenset(path for path, term in terms if any(_has_gradient(p) for p in term.parameters())))
        optimiser.step()
    model.eval()
    return all(weight.isfinite().all() for weight in weights(model))


def _has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def differentiable(entry: Entry, model: nn.Module, x: Inputs) -> tuple[list[Tensor], Tensor]:
    """The tensors of an input that may have gradients, and the model's output in one row, with the graph between them."""
    copied = tree_map_only(Tensor, lambda value: value.detach().clone().requires_grad_(value.is_floating_point()), x)
    with default_dtype(torch.float64):
        outputs = [leaf for leaf in tree_leaves(entry.call(model, copied)) if isinstance(leaf, Tensor)]
    inputs = [leaf for leaf in tree_leaves(copied) if isinstance(leaf, Tensor) and leaf.requires_grad]
    return inputs, torch.cat([leaf.flatten() for leaf in outputs if leaf.is_floating_point()])


def second_derivatives(entry: Entry, model: nn.Module, x: Inputs, of: Sequence[nn.Parameter]) -> str:
    """How d|f|^2 / dw comes out, f = dE/dx a force and E a sum over the outputs: what is wrong with it, or "exact".

    Held against a central difference along one direction; against a shorter one where a kink of the model (a leaky ReLU, a
    nearest neighbour that changes) lies within the first.
    """

    def square() -> Tensor:
        inputs, y = differentiable(entry, model, x)
        energy = (y * torch.linspace(0.5, 1.5, len(y), dtype=y.dtype)).sum()
        forces = torch.autograd.grad(energy, inputs, create_graph=True, allow_unused=True)
        return torch.stack([force.square().sum() for force in forces if force is not None]).sum()

    try:
        gradients = torch.autograd.grad(square(), of, allow_unused=True)
        known = [(w, g) for w, g in zip(of, gradients, strict=True) if g is not None]
        slope = float(torch.stack([(g * _direction(w)).sum() for w, g in known]).sum())
        is_exact = any(_agree(slope, (shifted(of, h, square) - shifted(of, -h, square)) / (2 * h)) for h in DIFFERENCES)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not all(g.isfinite().all() for _, g in known):
        return "NaN"
    return "exact" if is_exact else "wrong"


def _agree(slope: float, measured: float) -> bool:
    return abs(slope - measured) < 1e-3 * max(abs(measured), 1e-6)


def _direction(weight: Tensor) -> Tensor:
    return torch.linspace(-1.0, 1.5, weight.numel(), dtype=weight.dtype).view_as(weight)


def shifted(of: Sequence[nn.Parameter], by: float, value: Callable[[], Tensor]) -> float:
    """The value with all these weights moved along one direction; they are put back after."""
    before = [weight.detach().clone() for weight in of]
    for weight in of:
        weight.data.add_(by * _direction(weight))
    result = float(value().detach())
    for weight, saved in zip(of, before, strict=True):
        weight.data.copy_(saved)
    return result


def check_projected(
    promises: Promises, entry: Entry, model: nn.Module, x: Inputs, base: Mapping[str, Tensor], mode: Any
) -> float:
    """The equivariance error of the projected model, after checking what it is and that a fresh one loads its weights."""
    clean = project(model, mode=mode)
    y, state = flat(call(entry, clean, x)), clean.state_dict()

    def reloads() -> bool:
        fresh, _ = entry.build(seed=1)
        fresh.load_state_dict(state, strict=True)
        return torch.equal(flat(call(entry, fresh, x)), y)

    def drops() -> bool:
        parameters = dict(clean.named_parameters())
        unchanged = all(torch.equal(parameter, base[name]) for name, parameter in parameters.items())
        return unchanged and torch.equal(flat(call(entry, model, x)), y)

    promises.check(
        f"{mode}: same class, same keys, no term", lambda: type(clean) is type(model) and state.keys() == base.keys()
    )
    promises.check(f"{mode}: a fresh model loads it strictly and computes the same", reloads)
    if mode == "drop":
        promises.check("drop: base parameters and outputs as before, to the last bit", drops)
    return equivariance_error(entry, clean, x)


def is_copied(entry: Entry, model: nn.Module, x: Inputs) -> bool:
    twin = copy.deepcopy(model)
    with relaxed(model), relaxed(twin):
        y = flat(call(entry, model, x))
        same = torch.equal(flat(call(entry, twin, x)), y)
        for weight in weights(twin):
            weight.data.add_(1.0)
        moved = not torch.equal(flat(call(entry, twin, x)), y)
        return same and moved and torch.equal(flat(call(entry, model, x)), y)
