"""A monitor writes what the terms do, to a file, a writer or a callback, and nothing else."""

from __future__ import annotations

import copy
import csv
import logging
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import nn

from relaxify import Monitor, penalties, relaxify, set_theta
from relaxify.testing import equivariance_error


def model() -> nn.Module:
    torch.manual_seed(0)
    net = relaxify(nn.Sequential(o3.Linear("4x1o", "4x1o"), o3.Linear("4x1o", "2x1o")), "O(3)")
    set_theta(net, 0.5)
    return net


def train(net: nn.Module, monitor: Monitor, steps: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(steps):
        net(torch.randn(16, 12)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step()


def test_a_row_for_each_step_layer_and_quantity(tmp_path: Path) -> None:
    net, path = model(), tmp_path / "log.csv"
    train(net, Monitor(net, path, every=2, quantities=("theta", "share")), 5)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["layer"], row["quantity"]) for row in rows] == [
        (step, layer, quantity) for step in "024" for layer in "01" for quantity in ("theta", "share")
    ]
    assert {row["value"] for row in rows if row["quantity"] == "theta"} == {"0.5"}


def test_a_callback_and_a_writer() -> None:
    net, seen = model(), []
    train(net, Monitor(net, lambda step, values: seen.append((step, dict(values))), every=1), 2)
    assert [step for step, _ in seen] == [0, 1]
    assert {"0/theta", "0/share", "1/norm", "1/equivariant"} <= seen[-1][1].keys()

    class Writer:
        def __init__(self) -> None:
            self.scalars: list[tuple[str, float, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

    writer = Writer()
    train(net, Monitor(net, writer, every=3, quantities=("theta",)), 4)
    assert writer.scalars == [("0/theta", 0.5, 0), ("1/theta", 0.5, 0), ("0/theta", 0.5, 3), ("1/theta", 0.5, 3)]


def test_the_loss_with_the_terms_and_without_them_stands_beside_the_layers(tmp_path: Path) -> None:
    net, path, x = model(), tmp_path / "log.csv", torch.randn(16, 12)
    train(net, Monitor(net, path, every=2, quantities=("theta",), loss=lambda: net(x).square().mean()), 3)
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["layer"] == "loss"]
    assert [(row["step"], row["quantity"]) for row in rows] == [
        (step, quantity) for step in "02" for quantity in ("relaxed", "projected")
    ]
    assert rows[2]["value"] != rows[3]["value"]


class Lightning:
    """As Lightning's loggers and the module mlflow are called."""

    def __init__(self) -> None:
        self.seen: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append((step, metrics))


class Accelerator(Lightning):
    log_metrics = None

    def log(self, values: dict[str, float], step: int | None = None, log_kwargs: dict | None = None) -> None:
        self.seen.append((step, values))


class WandbRun(Accelerator):
    """Which drops what is of an earlier step than it has come to."""

    def define_metric(self, name: str) -> None: ...

    def log(self, data: dict[str, float], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None
        self.seen.append((data.pop("relaxation_step"), data))


class Module(Lightning):
    """A LightningModule, whose `log` takes a name."""

    log_metrics = None

    def log(self, name: str, value: float) -> None:
        raise AssertionError(name)

    def log_dict(self, values: dict[str, float]) -> None:
        self.seen.append((3 * len(self.seen), values))


@pytest.mark.parametrize("logger", [Lightning, Accelerator, WandbRun, Module])
def test_loggers_are_known_by_what_they_can_do(logger: type[Lightning]) -> None:
    net, first, second = model(), logger(), Lightning()
    train(net, Monitor(net, [first, second], every=3, quantities=("theta",), prefix="relaxation/"), 4)
    expected = {"relaxation/0/theta": 0.5, "relaxation/1/theta": 0.5}
    assert first.seen == second.seen == [(0, expected), (3, expected)]


def test_penalties_and_the_equivariance_error() -> None:
    net, seen, x = model(), {}, torch.randn(16, 12)

    def moved(g: torch.Tensor, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (moved_output(g, inputs[0]),)

    def moved_output(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (y.unflatten(1, (-1, 3)) @ g.mT.float()).flatten(1)

    def measured() -> float:
        assert not net.training
        return equivariance_error(net, "O(3)", x, input_action=moved, output_action=moved_output)

    monitor = Monitor(
        net,
        lambda step, values: seen.update({step: values}),
        every=4,
        quantities=("penalty",),
        error=measured,
        error_every=2,
    )
    train(net, monitor, 5)
    assert net.training
    assert {step: list(values) for step, values in seen.items()} == {
        0: ["0/penalty", "1/penalty", "error/relaxed"], 2: ["error/relaxed"], 4: ["0/penalty", "1/penalty", "error/relaxed"]
    }  # fmt: skip
    assert seen[4]["0/penalty"] == pytest.approx(penalties(net)["0"].total.item())
    # in eval() there are no terms, but for the monitor
    assert (
        seen[4]["error/relaxed"]
        > 1e-3
        > 1e-5
        > equivariance_error(net.eval(), "O(3)", x, input_action=moved, output_action=moved_output)
    )


def rows_of(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["step"], row["value"]) for row in csv.DictReader(file) if row["layer"] == "0"]


def test_a_log_that_is_resumed_is_that_of_one_run(tmp_path: Path) -> None:
    """Whatever the run that was killed had written since it was saved, and however its last row was cut short."""
    whole, path = tmp_path / "whole.csv", tmp_path / "log.csv"
    net = model()
    train(net, Monitor(net, whole, every=2, quantities=("norm",)), 8)

    net = model()
    first = Monitor(net, path, every=2, quantities=("norm",))
    train(net, first, 4)
    saved, weights, random_state = first.state_dict(), copy.deepcopy(net.state_dict()), torch.get_rng_state()
    train(net, first, 3)
    path.write_bytes(path.read_bytes()[:-4])
    net.load_state_dict(weights)
    torch.set_rng_state(random_state)
    again = Monitor(net, path, every=2, quantities=("norm",), resume=True)
    again.load_state_dict(saved)
    train(net, again, 4)
    assert path.read_text() == whole.read_text()


def test_resuming_a_file_that_is_none_or_of_something_else(tmp_path: Path) -> None:
    net, other = model(), tmp_path / "other.csv"
    train(net, Monitor(net, tmp_path / "new.csv", quantities=("theta",), resume=True), 1)
    assert rows_of(tmp_path / "new.csv") == [("0", "0.5")]
    for content in (b"", b"a,b\n1,2\n", b"step,layer,quantity,value\nx,0,theta,1\n", b"\xff\x00"):
        other.write_bytes(content)
        with pytest.raises(ValueError, match="is no log of a Monitor"):
            Monitor(net, other, resume=True)
        assert other.read_bytes() == content
    monitor = Monitor(net, print)
    for state in ({}, {"steps": -1}, {"steps": "3"}):
        with pytest.raises(ValueError, match="not a number of steps"):
            monitor.load_state_dict(state)


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    net, existing = model(), tmp_path / "log.csv"
    existing.write_text("precious")
    for arguments, words in [
        ({"to": existing}, "exists; choose another name"),
        ({"to": print, "quantities": ("loss",)}, "knows no 'loss'; choose among theta"),
        ({"to": print, "every": 0}, "every=0"),
        ({"to": 5}, "cannot write to 5"),
        ({"to": logging.getLogger()}, "cannot write to"),
        ({"to": [print, 5]}, "cannot write to 5"),
        ({"to": print, "error_every": 0}, "error_every=0"),
    ]:
        with pytest.raises(ValueError, match=words):
            Monitor(net, **arguments)
    assert existing.read_text() == "precious"
    with pytest.raises(RuntimeError, match="no relaxation terms"):
        Monitor(nn.Linear(2, 2), print)
