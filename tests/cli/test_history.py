"""`relaxify history` draws what a Monitor wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from relaxify import relaxify, set_theta
from relaxify.inspection.monitor import Monitor
from relaxify_cli.main import run


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first((x - x.mean(0)).unsqueeze(-1)))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    x = torch.randn(20, 3)
    model = relaxify(Net(), "O(3)", example_inputs=x)
    set_theta(model, 0.5)
    path = tmp_path / "terms.csv"
    monitor, optimiser = Monitor(model, path, every=2), torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(9):
        optimiser.zero_grad()
        (model(x)[..., 0] - x[:, [0, 0, 2]]).square().mean().backward()
        optimiser.step()
        monitor.step()
    return path


def test_by_default_there_is_a_panel_for_each_quantity_beside_the_log(log: Path) -> None:
    from relaxify_cli.plots import history

    assert run(["history", str(log)]) == 0
    assert log.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with log.open("a") as file:
        file.write("0,error,relaxed,1e-7\n8,error,relaxed,1e-2\n8,loss,relaxed,2\n8,loss,projected,3\n8,first,theta,0.75\n")
    panels = history(log).axes
    assert [axes.get_ylabel() for axes in panels] == ["theta", "|theta W x| / |f(x)|", "equivariance error", "loss"]
    assert [axes.get_yscale() for axes in panels] == ["linear", "linear", "log", "log"]
    # what was written again counts
    lines = {line.get_label(): list(line.get_ydata()) for line in panels[0].lines}
    assert lines == {"first": [0.5] * 4 + [0.75], "second": [0.5] * 5}
    assert [line.get_label() for line in panels[3].lines] == ["relaxed", "projected"]


@pytest.mark.parametrize("quantity", ["share", "norm", "theta", "equivariant"])
def test_every_quantity_has_a_figure(log: Path, tmp_path: Path, quantity: str) -> None:
    out = tmp_path / "out.png"
    assert run(["history", str(log), "-o", str(out), "--quantity", quantity]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_log_that_a_spreadsheet_saved_is_read(log: Path, tmp_path: Path) -> None:
    """Which puts a mark of the byte order before it."""
    saved = tmp_path / "saved.csv"
    saved.write_bytes(b"\xef\xbb\xbf" + log.read_bytes())
    assert run(["history", str(saved), "-o", str(tmp_path / "out.png")]) == 0


def test_what_is_there_is_kept_and_bad_logs_are_told(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    out.write_text("mine")
    assert run(["history", str(log), "-o", str(out)]) == 2
    assert out.read_text() == "mine"
    assert run(["history", str(log), "-o", str(out), "--force"]) == 0
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert run(["history", str(other), "-o", str(tmp_path / "x.png")]) == 2
    assert run(["history", "none.csv", "-o", str(tmp_path / "x.png")]) == 2
    assert run(["history", str(log), "-o", str(tmp_path / "x.png"), "--quantity", "loss"]) == 2
    errors = capsys.readouterr().err
    for message in ("out.png exists", "other.csv is not a log of a Monitor", "there is no file none.csv", "has no 'loss'"):
        assert message in errors
