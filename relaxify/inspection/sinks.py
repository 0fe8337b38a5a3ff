"""Where a Monitor writes: loggers of all kinds, told by what they can do and not by whose they are, and CSV files."""

from __future__ import annotations

import csv
import functools
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relaxify.output import write_whole

Values = Mapping[str, float]
Sink = Callable[[int, Values], None]
"""(step, {"layer/quantity": value}) -> None."""
HEADER = ["step", "layer", "quantity", "value"]


def sink_of(to: Any, *, prefix: str, resume: bool) -> Sink:
    """What writes to a path, a logger, a callback, or to each of several. ValueError if nothing can be written to it.

    >>> seen = []
    >>> sink_of(lambda step, values: seen.append((step, values)), prefix="net/", resume=False)(3, {"0/theta": 0.5})
    >>> seen
    [(3, {'net/0/theta': 0.5})]
    """
    if isinstance(to, str | Path):
        return CsvFile(Path(to), resume=resume)
    if isinstance(to, list | tuple):
        return _All([sink_of(each, prefix=prefix, resume=resume) for each in to])
    if isinstance(to, logging.Logger) or (write := _writer(to)) is None:
        raise ValueError(
            f"Monitor cannot write to {to!r}; pass a path, a logger (of Lightning, Weights and Biases, TensorBoard, MLflow, "
            "...), a callback (step, values), or a list of these."
        )
    return write if not prefix else functools.partial(_write_prefixed, write, prefix)


def _writer(to: Any) -> Sink | None:
    """How a logger takes numbers, the more special way first: some have several."""
    ways: dict[str, Callable[[Any, int, Values], None]] = {
        "add_scalar": _to_tensorboard,
        "log_metrics": _to_metrics,
        "log_dict": _to_module,
        "define_metric": _to_wandb,
        "log": _to_log,
    }
    for name, way in ways.items():
        if callable(getattr(to, name, None)):
            return functools.partial(way, to)
    return to if callable(to) else None


def _to_tensorboard(writer: Any, step: int, values: Values) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def _to_metrics(logger: Any, step: int, values: Values) -> None:
    """Lightning's loggers, the module mlflow, and others that are called as these."""
    logger.log_metrics(dict(values), step=step)


def _to_module(module: Any, _: int, values: Values) -> None:
    """A LightningModule, which knows its step itself."""
    module.log_dict(dict(values))


def _to_wandb(run: Any, step: int, values: Values) -> None:
    """It drops what is of an earlier step than it has come to, so the step is a number beside the others."""
    run.log({**values, "relaxation_step": step})


def _to_log(logger: Any, step: int, values: Values) -> None:
    """Accelerate's `Accelerator`, and whatever else takes a dictionary and a step."""
    logger.log(dict(values), step=step)


def _write_prefixed(write: Sink, prefix: str, step: int, values: Values) -> None:
    write(step, {f"{prefix}{name}": value for name, value in values.items()})


class _All:
    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks

    def __call__(self, step: int, values: Values) -> None:
        for sink in self.sinks:
            sink(step, values)


class CsvFile:
    """One row for each step and name, appended and flushed at once: a run that is killed keeps what it wrote.

    A run that is resumed goes on where it was saved, so what is there of later steps is written again and taken out first.
    ValueError for a file that exists, unless it is resumed, and then for one that no Monitor wrote.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._may_hold_later_steps = resume and os.path.lexists(path)
        if self._may_hold_later_steps:
            self._rows_before(0)
            return
        if os.path.lexists(path):
            raise ValueError(
                f"{path} exists; choose another name, so that nothing is overwritten, or pass resume=True to go on in it."
            )
        if not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: its folder does not exist; create it first.")
        with path.open("x", newline="") as file:
            csv.writer(file).writerow(HEADER)

    def __call__(self, step: int, values: Values) -> None:
        if self._may_hold_later_steps:
            write_whole(self.path, _as_text([HEADER, *self._rows_before(step)]).encode(), force=True)
            self._may_hold_later_steps = False
        rows = []
        for name, value in values.items():
            layer, _, quantity = name.rpartition("/")
            rows.append([str(step), layer, quantity, f"{value:.9g}"])
        # in one piece, so that no half of a step is written
        with self.path.open("a", newline="") as file:
            file.write(_as_text(rows))

    def _rows_before(self, step: int) -> list[list[str]]:
        """The rows of earlier steps, but for one that was cut short when the run was killed."""
        try:
            text = self.path.read_bytes().decode()
            whole = text[: text.rfind("\n") + 1]
            header, *rows = list(csv.reader(io.StringIO(whole, newline=""))) or [[]]
            if header == HEADER:
                return [row for row in rows if int(row[0]) < step]
        except (ValueError, IndexError, OSError, csv.Error):
            pass
        raise ValueError(f"{self.path} is no log of a Monitor; choose another name, so that nothing is overwritten.")


def _as_text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
