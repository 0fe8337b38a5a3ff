"""What relaxify itself gets wrong while it follows a model is never blamed on the model, nor the other way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from measuring.models import Mix, points
from safetensors.torch import save_file
from torch import Tensor, nn

from relaxify import inspect, plan
from relaxify.graph import precision, recording
from relaxify.graph.inputs import InputsError, UnfollowedError
from relaxify.lconv import lconvify
from relaxify_cli.main import run

X = points()
LINEAR = nn.Linear(4, 4)
FAULTS = {"recorder": recording._Recorder, "precision": precision.InDouble}
VERBS: dict[str, Callable[[], Any]] = {
    "plan": lambda: plan(Mix(), "SO(3)", example_inputs=(X,)),
    "plan in double": lambda: plan(Mix().double(), "SO(3)", example_inputs=(X.double(),)),
    "inspect": lambda: inspect(Mix(), "SO(3)", X),
    "lconvify": lambda: lconvify(LINEAR, example_inputs=(torch.ones(2, 4),)),
}
FOLLOWED = [("plan", "recorder"), ("plan in double", "precision"), ("inspect", "recorder"), ("lconvify", "recorder")]


def fails_in(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Let what sees every call of a torch function fail at each, as it may under another torch."""

    def failing(self: object, function: object, types: object, args: object = (), kwargs: object = None) -> Any:
        raise TypeError("no such overload")

    monkeypatch.setattr(FAULTS[fault], "__torch_function__", failing)


@pytest.mark.parametrize(("verb", "fault"), FOLLOWED)
def test_a_fault_of_relaxify_is_called_one(verb: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_in(monkeypatch, fault)
    with pytest.raises(
        UnfollowedError, match=r"runs on the example inputs, but not .*no such overload\): this is a fault of relaxify"
    ):
        VERBS[verb]()


class Failing(nn.Module):
    """Raises what it is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.mix, self.error = nn.Linear(4, 4, bias=False), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error", [TypeError("no such overload"), RuntimeError("a b"), KeyError("x"), MemoryError("can't allocate memory")]
)
def test_a_fault_of_the_model_is_not(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputsError, match="does not run on the example inputs"):
        plan(Failing(error), "SO(3)", example_inputs=(X,))
    # also when both are at fault
    fails_in(monkeypatch, "recorder")
    with pytest.raises(InputsError, match="does not run on the example inputs"):
        plan(Failing(error), "SO(3)", example_inputs=(X,))


def test_memory_is_not_enough_for_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, function: object, types: object, args: object = (), kwargs: object = None) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(recording._Recorder, "__torch_function__", failing)
    with pytest.raises(InputsError, match="can't allocate memory") as raised:
        VERBS["plan"]()
    assert not isinstance(raised.value, UnfollowedError)


def test_in_the_words_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x": X}, tmp_path / "x.safetensors")
    (tmp_path / "mine.py").write_text("from measuring.models import Mix\nnet = Mix()\n")
    monkeypatch.syspath_prepend(tmp_path)
    fails_in(monkeypatch, "recorder")
    assert run(["plan", "mine:net", "--group", "SO3", "--inputs", str(tmp_path / "x.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "the model runs, but not while relaxify follows it" in said
    assert "this looks like a fault of relaxify: --debug shows where." in said
