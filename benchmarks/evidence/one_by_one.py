"""Trainings one after the other in relaxify's ordinary loop, of networks that `vmap` cannot go over."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.arms import Arm, Budget, Task, fitted
from benchmarks.evidence.side_by_side import Member, Trained
from benchmarks.evidence.system import Data, System


def one_by_one(system: System, arm: Arm, members: Sequence[Member], steps: int, data: Sequence[Data]) -> list[Trained]:
    """Members of one arm, trained."""
    return [_trained(system, arm, member, steps, of) for member, of in zip(members, data, strict=True)]


def _trained(system: System, arm: Arm, member: Member, steps: int, data: Data) -> Trained:
    torch.manual_seed(member.seed)
    model = system.make()
    task = Task(data.inputs, data.targets, system.criterion, system.group, tuple(system.include))
    found = fitted(model, arm, Budget(steps, system.batch, member.rate), task, member.seed)
    return Trained(found.model, found.share)
