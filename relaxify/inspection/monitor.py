"""Monitor: what the terms of a relaxed model do over training, written every few steps."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.summary import summary

QUANTITIES = ("theta", "norm", "share", "equivariant")

Sink = Callable[[int, Mapping[str, float]], None]
"""(step, {"layer/quantity": value}) -> None."""


class Monitor:
    """Logs, every `every` steps, for each term of a model: theta, |W|, its share of the output, and |P_H W| / |W|.

    It also warns, once each, of what spoils a relaxed training without an error, and says how to fix it.

    - `to`: a CSV file's path (one row a step and layer), a TensorBoard writer, or a callback (step, values).
    - `quantities`: which of "theta", "norm", "share", "equivariant" (see `relaxify.summary`).
    - `loss`: such as `lambda: criterion(model(x), y)` on a batch kept for it; "loss/relaxed" and "loss/projected" are
      written too, side by side, in `eval()`. What lies between them is what projecting would cost now.
    - `optimizer`: only looked at, to tell if it does not hold the terms, or if its rate ends while they still act.

    Costs one `summary` each time it writes: products of each W with itself and with small matrices; and, with `loss`, two
    forward passes of that batch.
    ValueError for an unknown quantity, a step of zero, or a file that exists. RuntimeError if the model is not relaxed.

        monitor = Monitor(model, to="terms.csv")
        for x, y in loader:
            ...
            monitor.step()
    """

    def __init__(
        self,
        model: nn.Module,
        to: str | Path | Sink | Any,
        *,
        every: int = 100,
        quantities: tuple[str, ...] = QUANTITIES,
        loss: Callable[[], Tensor] | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        if unknown := [name for name in quantities if name not in QUANTITIES]:
            raise ValueError(f"Monitor knows no {unknown[0]!r}; choose among {', '.join(QUANTITIES)}.")
        if every < 1:
            raise ValueError(f"every={every}: give a number of steps, at least one.")
        summary(model)
        self.model = model
        self.every = every
        self.quantities = quantities
        self.loss = loss
        self.steps = 0
        self._lookout = Lookout(model, optimizer)
        self._sink = _sink(to)

    def step(self) -> None:
        """Count one optimiser step, and write if it is time. The first step is written."""
        step, values = self.steps, self.values() if self.steps % self.every == 0 else None
        # counted before it is written: what is interrupted is not written twice
        self.steps += 1
        if values is not None:
            self._sink(step, values)
            self._lookout.look_at_theta()
        self._lookout.step()

    def values(self) -> dict[str, float]:
        """The quantities now, under "layer/quantity"; those that are not known yet are left out."""
        found = summary(self.model, loss=self.loss)
        values = {f"{path}/{name}": getattr(layer, name) for path, layer in found.layers.items() for name in self.quantities}
        values |= {"loss/relaxed": found.relaxed_loss, "loss/projected": found.projected_loss}
        return {name: float(value) for name, value in values.items() if value is not None}


def _sink(to: Any) -> Sink:
    if isinstance(to, str | Path):
        return _CsvFile(Path(to))
    if hasattr(to, "add_scalar"):
        return functools.partial(_add_scalars, to)
    if not callable(to):
        raise ValueError(f"Monitor cannot write to {to!r}; pass a path, a TensorBoard writer or a callback (step, values).")
    sink: Sink = to
    return sink


def _add_scalars(writer: Any, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)


class _CsvFile:
    """One row for each step and name, appended and flushed at once: a run that is killed keeps what it wrote."""

    def __init__(self, path: Path) -> None:
        if os.path.lexists(path):
            raise ValueError(f"{path} exists; choose another name, so that nothing is overwritten.")
        self.path = path
        with path.open("x", newline="") as file:
            csv.writer(file).writerow(["step", "layer", "quantity", "value"])

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        rows = io.StringIO(newline="")
        writer = csv.writer(rows)
        for name, value in values.items():
            layer, _, quantity = name.rpartition("/")
            writer.writerow([step, layer, quantity, f"{value:.9g}"])
        # in one piece, so that no half of a step is written
        with self.path.open("a", newline="") as file:
            file.write(rows.getvalue())
