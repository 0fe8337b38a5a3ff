"""Dormant operations: what they read moves with g, and of what they do with it only a part was seen.

An elementwise function of what moves is still only where it is constant (relu below zero, a saturated sigmoid, a comparison
that came out one way), and gives what it reads only where it is the identity (a clamp within its bounds, what wraps
positions into a box). And where numbers leave torch (`.item()`, an array of numpy's, TorchScript with branches), what the
program does with them is not seen at all. A fault of few directions hides there, and more elements than usual are needed to
meet it.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.random_elements import Element
from relaxify.verdicts.draws import Draw, is_orthogonal
from relaxify.verdicts.twin import Runner
from relaxify.verdicts.watching import STILL, Seen, Watch, watched

STEPS = (0.4, 0.2, 0.1, 0.05)
"""Sizes of the elements that lead from one to the next."""


class Dormant:
    """Runs a model, and tells afterwards which operations were dormant in all of the runs, and what might wake them.

    Under a `group` that keeps lengths, what leaves alone all that is no longer than what it reads is not dormant.

    >>> watch = Dormant()
    >>> for x in torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0]):
    ...     _ = watch.running(lambda model, inputs: model(*inputs))(nn.ReLU(), (x,))
    >>> watch.operations
    [0]
    """

    def __init__(self, group: Group | None = None) -> None:
        self.elements: list[Draw | None] = []
        """Of each run the element that had moved its input, as far as they are told."""
        self._runs: list[list[Seen]] = []
        self._size = group.dim if group is not None and is_orthogonal(group) else 0

    def running(self, runner: Runner) -> Runner:
        """The runner, watched."""

        def run(model: nn.Module, inputs: Inputs) -> Any:
            self._runs.append([])
            return watched(Watch(self._runs[-1], self._size), runner, model, inputs)

        return run

    @property
    def operations(self) -> list[int]:
        """The numbers of those that were dormant."""
        return list(self._dormant())

    def _dormant(self) -> dict[int, list[int]]:
        """Of each that was dormant, which of the tensors that it read moved, and were given on if any were."""
        first, *others = self._runs or [[]]
        # where the runs took other ways, a branch was seen from both sides
        others = [run for run in others if len(run) == len(first)]
        found = {}
        for number, seen in enumerate(first):
            runs = [run[number] for run in others]
            moving = [i for i in range(len(seen.read)) if any(seen.moves(i, run) for run in runs)]
            passing = [i for i in moving if all(run.passes_on(i) for run in (seen, *runs))]
            if passing and any(seen.is_within(k, runs) for k in range(len(seen.reach))):
                continue
            if passing or (moving and not any(seen.gives_another(run) for run in runs)):
                found[number] = passing or moving
        return found

    def nearer(self, group: Group, attempt: int) -> list[Draw]:
        """Elements near those on which what a dormant operation reads was largest, and smallest: one kind of step each."""
        dormant, length = list(self._dormant().items()), len(self._runs[0])
        number, reads = dormant[attempt % len(dormant)]
        read = reads[attempt // 2 % len(reads)]
        runs = zip(self._runs, self.elements, strict=False)
        read_in = [(run[number].read, g) for run, g in runs if g and len(run) == length]
        known = [(values[read][0], g) for values, g in read_in if read < len(values)]
        values = torch.stack([entries for entries, _ in known])
        is_moving = values.std(dim=0) > STILL * values.abs().max()
        moving = values[:, is_moving] if is_moving.any() else values
        if attempt % 2:
            # what is looked at may be one entry of many: the first one, or else another
            moving = moving[:, [(attempt // 2 - 1) % moving.shape[1]]]
        generator = torch.Generator().manual_seed(3000 + attempt)
        found = []
        for sign, size in itertools.product((1, -1), STEPS):
            step = torch.randn(len(group.generators), generator=generator, dtype=torch.float64)
            largest = (sign * moving).amax(dim=1)
            # of truth values many are as good
            equal = (largest == largest.max()).nonzero().flatten()
            chosen = torch.randint(len(equal), (), generator=generator) if len(equal) > 1 else 0
            best = known[int(equal[chosen])][1]
            found.append(Draw(group, (Element(size * step),)) * best)
        return found
