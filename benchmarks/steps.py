"""The training steps that are compared: plain, relaxed, relaxed and ended, at rank 16, naive, and the floor's products."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.floor import gemms, shapes
from benchmarks.models import Case
from benchmarks.naive import relax_naively
from benchmarks.timing import Step
from relaxify import Constant, RelaxConfig, penalty, plan, relaxify

KINDS = ("plain", "relaxed", "ended", "rank 16", "exact", "naive", "floor")


def steps(case: Case, device: torch.device, kinds: Sequence[str] = KINDS) -> dict[str, Step]:
    """A training step of each kind, all from the same model and inputs; `floor` is the products alone."""
    torch.manual_seed(0)
    model = case.make().to(device)
    inputs = case.inputs_on(device)
    return {kind: step(kind, case, copy.deepcopy(model), inputs, device) for kind in kinds}


def step(kind: str, case: Case, model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Step:
    if kind == "plain":
        return training(model, inputs, None)
    if kind == "floor":
        return gemms(shapes(model, inputs, plan(model, case.group, include=case.include).sites), device)
    if kind == "naive":
        terms = relax_naively(plan(model, case.group, include=case.include).sites)
        model.to(device)
        return training(model, inputs, lambda: 0.01 * torch.stack([term.penalty() for term in terms]).sum())
    configs = {
        "relaxed": RelaxConfig(),
        "ended": RelaxConfig(),
        "rank 16": RelaxConfig(rank=16),
        "exact": RelaxConfig(rows=None),
    }
    relaxify(model, case.group, include=case.include, config=configs[kind])
    theta = Constant(model, 1, 0.5, until=1 if kind == "ended" else None)
    theta.step()
    return training(model, inputs, lambda: penalty(model), theta.step)


def training(model: nn.Module, inputs: tuple[Any, ...], extra: Any, after: Any = None) -> Step:
    """Forward, penalty, backward, optimiser, and the controller's step."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def run() -> None:
        loss = sum_of_squares(model(*inputs))
        if extra is not None:
            loss = loss + extra()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            after()

    return run


def sum_of_squares(output: Any) -> Tensor:
    """A loss of whatever a model returns: a tensor, or a dict of energies and forces."""
    if isinstance(output, dict):
        output = [output["energy"], output["forces"]]
    parts = [value.square().mean() for value in tree_leaves(output)]
    return torch.stack(parts).sum()
