"""What a system is: the network, the data of a seed, what is measured, and what its trainings may cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor, nn

from relaxify.modules.patterns import Pattern

SWEPT_FROM = 1_000
"""From this seed on learning rates are chosen: by other data than those that are tested."""


Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Data:
    """Inputs and targets of training, and of what is tested once."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    test_inputs: tuple[Tensor, ...]
    test_targets: Tensor


@dataclass(frozen=True)
class System:
    """What is trained, and how often.

    - `what` describes it in a sentence or two.
    - `samples(seed, size)` makes the data, so many of them to learn from.
    - `rates` are swept for each way, and up to `wider` beyond while the best is the last, on `sweep` seeds of which none is
      tested, nor are their data; `rate` is the one of untuned ways.
    - `measure(output, targets)` is a number of the test's predictions, `column` its name and unit, `form` how it is printed.
      `also` are others by their names and units, which are told and not judged.
    - `side_by_side` is how many are trained at a time, and `timed` how many pairs of steps the cost is measured on.
    - `diagnosed` is how many batches `diagnose` reads.
    - `is_stacked`: by `vmap` over stacked parameters, where terms are of linear layers alone; else one after the other,
      which takes less time of wide networks.
    - `of` is the name of the system of which this is a variant, and `setting` in what it differs ("16 channels"). Variants
      are trained in few ways, and share a table.
    """

    name: str
    title: str
    what: str
    make: Callable[[], nn.Module]
    samples: Callable[[int, int], Data]
    criterion: Callable[[Tensor, Tensor], Tensor]
    measure: Measure
    column: str
    higher_is_better: bool
    group: str
    size: int
    steps: int
    batch: int
    rate: float
    rates: tuple[float, ...]
    include: tuple[Pattern, ...] = ()
    seeds: int = 20
    sweep: int = 8
    wider: int = 4
    side_by_side: int = 100
    timed: int = 60
    form: str = ".3f"
    diagnosed: int = 128
    is_stacked: bool = True
    also: Mapping[str, Measure] = field(default_factory=dict)
    of: str = ""
    setting: str = ""

    def data(self, seed: int) -> Data:
        """What a seed learns from and is tested on."""
        return self.samples(seed, self.size)

    @property
    def within_a_sentence(self) -> str:
        """Its title, where that begins no sentence; of a variant, with what is different."""
        title = self.title[0].lower() + self.title[1:] if self.title[1].islower() else self.title
        return f"{title} ({self.setting})" if self.setting else title

    @property
    def measures(self) -> dict[str, Measure]:
        """All that is measured, by name; the first is what rates are chosen and verdicts are given by."""
        return {self.column: self.measure, **self.also}

    @property
    def sweep_seeds(self) -> range:
        return range(SWEPT_FROM, SWEPT_FROM + self.sweep)


def batches(count: int, steps: int, batch: int, seed: int) -> Int[Tensor, "steps batch"]:
    """The rows of each step's batch: epoch after epoch, each in an order of its own."""
    order = torch.Generator().manual_seed(seed)
    epochs = math.ceil(steps * batch / count) + 1
    rows = torch.cat([torch.randperm(count, generator=order) for _ in range(epochs)])
    return rows[: steps * batch].unflatten(0, (steps, batch))


def drawn(among: int, count: int, seed: int) -> Int[Tensor, " drawn"]:
    """So many of so many rows, none twice; all of them if there are no more."""
    return torch.randperm(among, generator=torch.Generator().manual_seed(seed))[:count]


@torch.no_grad()
def tested(system: System, model: nn.Module, data: Data) -> dict[str, float]:
    """What a finished model is measured to be, by name, its batch norms recalibrated on the training inputs."""
    _recalibrate(model, data, system.batch)
    model.eval()
    parts = zip(*(x.split(500) for x in data.test_inputs), strict=True)
    output = torch.cat([model(*part) for part in parts])
    return {name: measure(output, data.test_targets) for name, measure in system.measures.items()}


def _recalibrate(model: nn.Module, data: Data, batch: int) -> None:
    """As `torch.optim.swa_utils.update_bn`, which takes one input a batch alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.track_running_stats = True
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for rows in batches(len(data.targets), -(-len(data.targets) // batch), batch, seed=0):
        model(*(x[rows] for x in data.inputs))
