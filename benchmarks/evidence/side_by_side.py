"""Many small models of one arm, trained side by side: parameters stacked along a first axis, and `vmap` over them.

To rounding this is what the ordinary loop comes to (`benchmarks.arms.fitted`): a test compares them. Members differ in
their seed (weights, data, batches) and in their learning rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.arms import Arm
from benchmarks.evidence.parallel_terms import ParallelTerms
from benchmarks.evidence.system import Data, System, batches
from relaxify import project, refold, relaxify
from relaxify.relaxation.controllers.schedules import Schedule
from relaxify.relaxation.terms.term import terms_of

Stack = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """One training: whose weights, data and batches, and at which peak of the learning rate."""

    seed: int
    rate: float


@dataclass(frozen=True)
class Trained:
    """A projected model, and the largest mean share that its terms had of their layers' outputs."""

    model: nn.Module
    share: float


class SideBySide:
    """Members of one arm in training."""

    def __init__(self, system: System, arm: Arm, members: Sequence[Member], steps: int, data: Sequence[Data]) -> None:
        self.system, self.arm, self.members, self.steps = system, arm, members, steps
        made = [_made(system, member.seed) for member in members]
        self.template = made[0] if arm.theta is None else relaxify(_made(system, 0), system.group, **_options(system, arm))
        self.theta = None if arm.theta is None else arm.theta(self.template, steps)
        assert self.theta is None or isinstance(self.theta, Schedule)
        self.terms = terms_of(self.template)
        self.stack = {
            name: torch.stack([dict(model.named_parameters())[name].detach() for model in made])
            for name, _ in made[0].named_parameters()
        }
        self.weights = {
            path: term.weight.detach().expand(len(made), *term.weight.shape).clone() for path, term in self.terms.items()
        }
        self.rates = next(iter(self.stack.values())).new_tensor([member.rate for member in members])
        self.bare = _without_statistics(_made(system, 0))
        self.parallel = ParallelTerms(self.bare, system.group, system.include, arm.config) if self.terms else None
        self.inputs = [torch.stack(parts) for parts in zip(*(each.inputs for each in data), strict=True)]
        self.targets = torch.stack([each.targets for each in data])
        rows = [batches(self.targets.shape[1], steps, system.batch, member.seed) for member in members]
        self.rows = torch.stack(rows, dim=1)
        self.optimizer = StackedAdam([*self.stack.values(), *self.weights.values()])
        self.share = torch.zeros(len(members))

    def run(self) -> list[Trained]:
        for step in range(self.steps):
            self.step(step)
        return [Trained(self.projected(k), float(self.share[k])) for k in range(len(self.members))]

    def step(self, step: int) -> None:
        """One step of every member, and of theta."""
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        if step >= self.arm.start * self.steps:
            trained = [*self.stack.values(), *(self.weights.values() if self._acts() else ())]
            for parameter in trained:
                parameter.requires_grad_()
            gradients = torch.autograd.grad(self._losses(step).sum(), trained)
            self.optimizer.step([parameter.detach_() for parameter in trained], gradients, falling * self.rates)
        if self.theta is not None:
            self._move_theta()

    def _acts(self) -> bool:
        return self.theta is not None and self.theta.steps < self.theta.end

    def _losses(self, step: int) -> Tensor:
        """Of each member, its penalty included."""
        rows, each = self.rows[step], torch.arange(len(self.members))[:, None]
        inputs, targets = [x[each, rows] for x in self.inputs], self.targets[each, rows]
        if not self._acts():
            outputs = vmap(lambda stack, *x: functional_call(self.bare, stack, x, tie_weights=False))(self.stack, *inputs)
            return vmap(self.system.criterion)(outputs, targets)
        theta = self.rates.new_full((len(self.terms),), self.theta.theta)
        losses, penalties, share = vmap(self._relaxed_loss, in_dims=(0, 0, 0, 0, None, None))(
            self.stack, list(self.weights.values()), inputs, targets, theta, torch.tensor(step)
        )
        self.share = torch.maximum(self.share, share.detach())
        return losses + (losses.detach().abs() * penalties if self.arm.relative else penalties)

    def _relaxed_loss(
        self, stack: Stack, weights: list[Tensor], inputs: list[Tensor], targets: Tensor, theta: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        named = {f"model.{name}": value for name, value in stack.items()}
        output, penalty, share = functional_call(self.parallel, named, (weights, theta, step, *inputs), tie_weights=False)
        return self.system.criterion(output, targets), penalty, share

    def _move_theta(self) -> None:
        """As a schedule does, but that it refolds each member."""
        every, steps = self.theta.refold_every, self.theta.steps + 1
        self.theta.refold_every = None
        if every is not None and steps % every == 0 and steps < self.theta.end:
            for k in range(len(self.members)):
                self._refold(k)
        self.theta.step()
        self.theta.refold_every = every

    @torch.no_grad()
    def _refold(self, k: int) -> None:
        model = self.member(k)
        refold(model)
        for name, value in self.stack.items():
            value[k] = model.get_parameter(name)
        for path, term in terms_of(model).items():
            self.weights[path][k] = term.weight

    @torch.no_grad()
    def member(self, k: int) -> nn.Module:
        """The template with the parameters of one member."""
        for name, value in self.stack.items():
            self.template.get_parameter(name).copy_(value[k])
        for path, term in self.terms.items():
            term.weight.copy_(self.weights[path][k])
        return self.template

    def projected(self, k: int) -> nn.Module:
        """The model of one member, without terms."""
        source = self.member(k)
        return copy.deepcopy(source) if self.theta is None else project(source, mode=self.arm.mode)


class StackedAdam:
    """torch's Adam with its defaults, each member at its own rate."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], rates: Tensor) -> None:
        """Parameters that come to an end are the last ones, and have no gradient from then on."""
        self.steps += 1
        correction, root = 1 - 0.9**self.steps, (1 - 0.999**self.steps) ** 0.5
        for p, gradient, first, second in zip(parameters, gradients, self.first, self.second, strict=False):
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second.sqrt() / root).add_(1e-8)
            p.sub_((rates / correction).view(-1, *[1] * (p.ndim - 1)) * first / size)


def _made(system: System, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return system.make()


def _options(system: System, arm: Arm) -> dict[str, object]:
    return {"include": system.include, "config": arm.config}


def _without_statistics(model: nn.Module) -> nn.Module:
    """Batch norms that keep no running mean: it is made anew at the end, and `vmap` could not write it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    return model.train()
