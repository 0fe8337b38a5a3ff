"""Many small models of one arm, trained side by side: parameters stacked along a first axis, and `vmap` over them.

To rounding this is what the ordinary loop comes to (`benchmarks.arms.fitted`): a test compares them. Members differ in
their seed (weights, data, batches) and in their learning rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.arms import Arm, finished
from benchmarks.evidence.controls import Stepped, Weights, control_of
from benchmarks.evidence.parallel_terms import Found, ParallelTerms
from benchmarks.evidence.stacked_adam import StackedAdam
from benchmarks.evidence.system import Data, System, batches
from relaxify import RECM, RPP, refold, relaxify
from relaxify.relaxation.controllers.rpp import own_weights
from relaxify.relaxation.switching import end_terms
from relaxify.relaxation.terms.term import terms_of

Stack = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """One training: whose weights, data and batches, and at which peak of the learning rate."""

    seed: int
    rate: float


@dataclass(frozen=True)
class Trained:
    """A finished model, and the largest mean share that its terms had of their layers' outputs."""

    model: nn.Module
    share: float


class SideBySide:
    """Members of one arm in training."""

    def __init__(self, system: System, arm: Arm, members: Sequence[Member], steps: int, data: Sequence[Data]) -> None:
        self.system, self.arm, self.members, self.steps = system, arm, members, steps
        initial = [initial_parameters(system.make, member.seed) for member in members]
        self.template = copy.deepcopy(_first(system.make))
        if arm.theta is not None:
            relaxify(self.template, system.group, **_options(system, arm))
        controller = None if arm.theta is None else arm.theta(self.template, steps)
        self.terms = terms_of(self.template)
        self.stack = {name: torch.stack([each[name] for each in initial]) for name in initial[0]}
        # where W starts from noise, that is of the site's path and no seed's
        self.weights = [
            term.weight.detach().expand(len(members), *term.weight.shape).clone() for term in self.terms.values()
        ]
        self.rates = next(iter(self.stack.values())).new_tensor([member.rate for member in members])
        like = self.rates[:, None].expand(-1, len(self.terms))
        self.control = controller and control_of(controller, like, refold=self._refold, nearest=self._nearest)
        self.prior = _Prior(controller, self.template) if isinstance(controller, RPP) else None
        self.bare = _without_statistics(copy.deepcopy(_first(system.make)) if self.terms else self.template)
        self.parallel = (
            ParallelTerms(self.bare, system.group, system.include, arm.config, moments=isinstance(controller, RECM))
            if self.terms
            else None
        )
        self.inputs = [torch.stack(parts) for parts in zip(*(each.inputs for each in data), strict=True)]
        self.targets = torch.stack([each.targets for each in data])
        rows = [batches(self.targets.shape[1], steps, system.batch, member.seed) for member in members]
        self.rows = torch.stack(rows, dim=1)
        self.optimizer = StackedAdam([*self.stack.values(), *self.weights])
        self.share = torch.zeros(len(members))
        self.before_last: _State | None = None

    def run(self) -> list[Trained]:
        for step in range(self.steps):
            if step == self.steps - 1 and self.arm.mode == "fit":
                self.before_last = self._state().copied()
            self.step(step)
        return [Trained(self.finished(k), float(self.share[k])) for k in range(len(self.members))]

    def step(self, step: int) -> None:
        """One step of every member, and of theta."""
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        acts = self.control is not None and self.control.acts
        trained = [*self.stack.values(), *(self.weights if acts else ())]
        thetas = [self.control.theta] if self.control is not None and acts else []
        for parameter in (*trained, *thetas):
            parameter.requires_grad_()
        losses, found = self._relaxed_losses(step) if acts else (self._losses(step), None)
        gradients = torch.autograd.grad(losses.sum(), [*trained, *thetas])
        for theta in thetas:
            theta.detach_()
        self.optimizer.step([p.detach_() for p in trained], gradients[: len(trained)], falling * self.rates)
        if self.control is not None:
            told = found and Stepped(gradients[-1], found.moments, found.square.detach())
            self.control.step(told, self.weights)

    def _batch(self, step: int) -> tuple[list[Tensor], Tensor]:
        rows, each = self.rows[step], torch.arange(len(self.members))[:, None]
        return [x[each, rows] for x in self.inputs], self.targets[each, rows]

    def _losses(self, step: int) -> Tensor:
        """Of each member, where no term acts."""
        inputs, targets = self._batch(step)
        outputs = vmap(lambda stack, *x: functional_call(self.bare, stack, x, tie_weights=False))(self.stack, *inputs)
        return vmap(self.system.criterion)(outputs, targets)

    def _relaxed_losses(self, step: int) -> tuple[Tensor, Found]:
        """Of each member, penalty and priors included."""
        assert self.control is not None
        inputs, targets = self._batch(step)
        nearest = self._nearest(self.weights) if self.arm.config.reduction == "projection" else []
        losses, found = vmap(self._relaxed_loss, in_dims=(0, 0, 0, 0, 0, 0, None))(
            self.stack, self.weights, self.control.theta, inputs, targets, nearest, torch.tensor(step)
        )
        self.share = torch.maximum(self.share, found.share.mean(1).detach())
        penalties = found.penalty.sum(1)
        losses = losses + (losses.detach().abs() * penalties if self.arm.relative else penalties)
        return losses if self.prior is None else losses + self.prior(self.stack, self.weights), found

    def _relaxed_loss(
        self,
        stack: Stack,
        weights: list[Tensor],
        theta: Tensor,
        inputs: list[Tensor],
        targets: Tensor,
        nearest: list[Tensor],
        step: Tensor,
    ) -> tuple[Tensor, Found]:
        named = {f"model.{name}": value for name, value in stack.items()}
        output, found = functional_call(self.parallel, named, (weights, theta, nearest, step, *inputs), tie_weights=False)
        return self.system.criterion(output, targets), found

    @torch.no_grad()
    def _nearest(self, weights: Weights) -> Weights:
        """P_H W of each member and site."""
        found = []
        for term, weight in zip(self.terms.values(), weights, strict=True):
            parts = []
            for each in weight:
                term.weight.copy_(each)
                parts.append(term.equivariant_part().to(weight))
            found.append(torch.stack(parts))
        return found

    @torch.no_grad()
    def _refold(self) -> None:
        for k in range(len(self.members)):
            model = self.member(k)
            refold(model)
            for name, value in self.stack.items():
                value[k] = model.get_parameter(name)
            for weight, term in zip(self.weights, self.terms.values(), strict=True):
                weight[k] = term.weight

    @torch.no_grad()
    def member(self, k: int) -> nn.Module:
        """The template with the parameters of one member, and its theta."""
        self._fill(k, self._state())
        if self.control is not None and not self.control.acts:
            end_terms(self.template)
        return self.template

    def _state(self) -> _State:
        acts = self.control is not None and self.control.acts
        return _State(self.stack, self.weights, self.control.theta if self.control is not None and acts else None)

    @torch.no_grad()
    def _fill(self, k: int, state: _State) -> None:
        for name, value in state.stack.items():
            self.template.get_parameter(name).copy_(value[k])
        for site, (weight, term) in enumerate(zip(state.weights, self.terms.values(), strict=True)):
            term.weight.copy_(weight[k])
            if state.theta is not None:
                term.theta.copy_(state.theta[k, site])

    def finished(self, k: int) -> nn.Module:
        """The model of one member as it is tested: a copy, without terms unless the arm keeps them."""
        if self.before_last is not None:
            self._show_last_batch(k, self.before_last)
        source = self.member(k)
        model = finished(source, self.arm)
        return copy.deepcopy(model) if model is source else model

    def _show_last_batch(self, k: int, before: _State) -> None:
        """Give the template's terms the sketch that those of one member would have: of the same rows of the last step.

        What `fit` fits to are the inputs last seen in training, which terms that stand beside the network do not keep.
        """
        self._fill(k, before)
        for term in self.terms.values():
            term.sketch.updates = self.steps - 1
        inputs, _ = self._batch(self.steps - 1)
        self.template.train()(*(x[k] for x in inputs))


@dataclass(frozen=True)
class _State:
    """The parameters of all members, and their theta while terms act."""

    stack: Stack
    weights: list[Tensor]
    theta: Tensor | None

    def copied(self) -> _State:
        stack = {name: value.clone() for name, value in self.stack.items()}
        return _State(stack, [weight.clone() for weight in self.weights], None if self.theta is None else self.theta.clone())


class _Prior:
    """RPP's loss term of every member."""

    def __init__(self, rpp: RPP, model: nn.Module) -> None:
        self.rpp = rpp
        own = {id(weight) for weight in own_weights(model)}
        self.names = [name for name, weight in model.named_parameters() if id(weight) in own]

    def __call__(self, stack: Stack, weights: Weights) -> Tensor:
        basic, own = (
            torch.stack([weight.flatten(1).square().sum(1) for weight in each]).sum(0)
            for each in (weights, [stack[name] for name in self.names])
        )
        return self.rpp.basic_wd * basic + self.rpp.equiv_wd * own


def _made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make()


@lru_cache(2)
def _first(make: Callable[[], nn.Module]) -> nn.Module:
    """One network to copy: e3nn takes a second and more to make one, and a quarter of that to copy it."""
    return _made(make, 0)


@lru_cache(256)
def initial_parameters(make: Callable[[], nn.Module], seed: int) -> Mapping[str, Tensor]:
    """What a seed's training starts from, in whatever way."""
    return {name: parameter.detach() for name, parameter in _made(make, seed).named_parameters()}


def _options(system: System, arm: Arm) -> dict[str, object]:
    return {"include": system.include, "config": arm.config, "keep_relaxed": arm.keep}


def _without_statistics(model: nn.Module) -> nn.Module:
    """Batch norms that keep no running mean: it is made anew at the end, and `vmap` could not write it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    return model.train()
