"""A monitor writes what the terms do, to a file, a writer or a callback, and nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import nn

from relaxify import relaxify, set_theta
from relaxify.inspection.monitor import Monitor


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


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    net, existing = model(), tmp_path / "log.csv"
    existing.write_text("precious")
    for arguments, words in [
        ({"to": existing}, "exists; choose another name"),
        ({"to": print, "quantities": ("loss",)}, "knows no 'loss'; choose among theta"),
        ({"to": print, "every": 0}, "every=0"),
        ({"to": 5}, "cannot write to 5"),
    ]:
        with pytest.raises(ValueError, match=words):
            Monitor(net, **arguments)
    assert existing.read_text() == "precious"
    with pytest.raises(RuntimeError, match="no relaxation terms"):
        Monitor(nn.Linear(2, 2), print)
