"""relaxify convert --verify with --inputs, and --check: what is said of good files, and of each way in which one is bad."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from relaxed_states import load, save
from torch import Tensor, nn

import relaxify
from relaxify import RelaxConfig
from relaxify_cli.main import run

MODELS = """
import torch
from torch import nn

def layers():
    return nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False)

def plain():
    return nn.Sequential(*layers())

class Shifted(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1.0

def shifted():
    return Shifted(*layers())

class Other(nn.Sequential):
    made = 0

    def forward(self, x):
        return self.scale * super().forward(x)

def other():
    Other.made += 1
    model = Other(*layers())
    model.scale = Other.made
    return model

class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers()

    def forward(self, x):
        return self.second(self.first(x))

class Random(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * torch.rand(())

def random():
    return Random(*layers())

def wider():
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 1, bias=False))

def two():
    return x(), x()

def flat():
    return torch.randn(8, 4)

def x():
    return torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(0))
"""


def inputs() -> Tensor:
    return torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(0))


def relaxed_state(group: str = "SO(3)", rank: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    relaxify.relaxify(model, group, example_inputs=inputs(), config=RelaxConfig(rank=rank))
    for name, parameter in model.named_parameters():
        if "relaxation" in name:
            nn.init.normal_(parameter)
    relaxify.set_theta(model, 0.5)
    return {key: value.clone() for key, value in model.state_dict().items()}


STATE = relaxed_state()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_models.py").write_text(MODELS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "some_models", raising=False)
    monkeypatch.chdir(tmp_path)
    return "some_models"


def said(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    code = run(["convert", *command])
    shown = capsys.readouterr()
    return code, " ".join(shown.out.split()), " ".join(shown.err.split())


@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize("rank", [None, 2])
def test_a_good_conversion_is_sound_and_equal(
    mode: str, rank: int | None, models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nested, behind a wrapper: the relaxed model is made from the records alone."""
    state = {f"module.{key}": value for key, value in relaxed_state(rank=rank).items()}
    save({"net": state, "epoch": 1}, Path("in.pt"))
    verify = ("--verify", f"{models}:plain", "--inputs", f"{models}:x")
    code, out, _ = said(capsys, "in.pt", "-o", "out.pt", "--mode", mode, *verify)
    assert code == 0
    for text in (
        "Loads with strict=True",
        "Commutes with SO(3): relative error",
        "sound (8 elements",
        "Equal to the relaxed",
    ):
        assert text in out, text
    code, out, _ = said(capsys, "in.pt", "--check", "out.pt", "--mode", mode, *verify)
    assert (code, out.startswith("out.pt is what in.pt converts to")) == (0, True)
    assert "Equal to the relaxed model" in out


@pytest.mark.parametrize(("factory", "text"), [
    ("shifted", "Shifted is not found to commute with SO(3) (broken: the output does not transform"),
    ("random", "Random is not found to commute with SO(3) (undecided: the model draws random numbers"),
    ("other", "Other does not give what the projected relaxed model gives (they differ by"),
    ("Hidden", "does not load into Hidden"),
    ("wider", "does not load into Sequential"),
])  # fmt: skip
def test_what_is_not_as_it_should_be_is_not_written(
    factory: str, text: str, models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(STATE, Path("in.safetensors"))
    command = ("--verify", f"{models}:{factory}", "-i", f"{models}:x")
    code, _, error = said(capsys, "in.safetensors", "-o", "out.safetensors", *command)
    assert (code, Path("out.safetensors").exists()) == (1, False)
    assert text in error
    assert "out.safetensors was not written" in error
    assert said(capsys, "in.safetensors", "-o", "out.safetensors")[0] == 0
    code, _, error = said(capsys, "in.safetensors", "--check", "out.safetensors", *command)
    assert (code, text in error, "so out.safetensors fails" in error) == (1, True, True)


def test_a_relaxed_model_that_cannot_be_made_is_said_and_no_failure(models: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Records of another name for the layers, as of a model whose layers were moved since."""
    text = bytes(STATE["0.relaxation._extra_state"].numpy()).replace(b'"path":"0"', b'"path":"old.0"')
    save({**STATE, "0.relaxation._extra_state": torch.frombuffer(bytearray(text), dtype=torch.uint8)}, Path("in.pt"))
    code, out, _ = said(capsys, "in.pt", "-o", "out.pt", "--verify", f"{models}:plain", "-i", f"{models}:x")
    assert code == 0
    assert "The relaxed model could not be made to compare with: " in out
    assert "Commutes with SO(3)" in out


@pytest.mark.parametrize(("command", "text"), [
    ((), "give one of --output OUT and --check OUT"),
    (("-o", "out.pt", "--check", "out.pt"), "give one of --output OUT and --check OUT"),
    (("-o", "out.pt", "-i", "some_models:x"), "through the model of --verify"),
    (("-o", "out.pt", "--verify", "some_models:plain", "--irreps", "x=1o"), "give --inputs too"),
    (("-o", "out.pt", "--verify", "some_models:plain", "-i", "some_models:flat"), "no example input has an axis of size 3"),
    (("-o", "out.pt", "--verify", "some_models:plain", "-i", "some_models:wider"), "some_models:wider returned Sequential"),
    (("-o", "out.pt", "--verify", "some_models:plain", "-i", "some_models:two"), "give the arguments of its forward"),
    (("-o", "out.pt", "--verify", "some_models:plain", "-i", "none.safetensors"), "there is no file none.safetensors"),
    (("--check", "none.pt"), "cannot read none.pt"),
    (("--check", "in.pt", "--max-theta", "-1"), "Invalid value for '--max-theta'"),
])  # fmt: skip
def test_what_cannot_be_verified_is_bad_input(
    command: tuple[str, ...], text: str, models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(STATE, Path("in.pt"))
    code, _, error = said(capsys, "in.pt", *command)
    assert (code, text in error) == (2, True), error
    assert not Path("out.pt").exists()


def test_a_group_without_a_name_cannot_be_measured(models: str, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = {
        key: torch.frombuffer(bytearray(bytes(value.numpy()).replace(b"SO(3)", b"mine!")), dtype=torch.uint8)
        if key.endswith("_extra_state")
        else value
        for key, value in STATE.items()
    }
    save(renamed, Path("in.pt"))
    code, _, error = said(capsys, "in.pt", "-o", "out.pt", "--verify", f"{models}:plain", "-i", f"{models}:x")
    assert code == 2
    assert "the group 'mine!', which is none that has a name" in error


def changed_value(state: dict[str, Tensor]) -> str:
    state["0.weight"] = state["0.weight"].clone()
    state["0.weight"][3, 1] += 1e-6
    return "0.weight"


def missing_key(state: dict[str, Tensor]) -> str:
    del state["1.weight"]
    return "1.weight"


def key_too_many(state: dict[str, Tensor]) -> str:
    state["2.weight"] = torch.ones(1)
    return "2.weight"


def other_dtype(state: dict[str, Tensor]) -> str:
    state["1.weight"] = state["1.weight"].double()
    return "1.weight"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize("change", [changed_value, missing_key, key_too_many, other_dtype])
def test_check_names_what_differs(
    change: object, mode: str, suffix: str, models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = f"in{suffix}", f"out{suffix}"
    save(STATE, Path(source))
    assert said(capsys, source, "-o", target, "--mode", mode)[0] == 0
    assert said(capsys, source, "--check", target, "--mode", mode)[0] == 0
    state = load(Path(target))
    key = change(state)  # type: ignore[operator]
    save(state, Path(target))
    code, _, error = said(capsys, source, "--check", target, "--mode", mode)
    assert code == 1
    assert f"{target} is not what {source} converts to with --mode {mode}: first {key};" in error


def test_check_sees_another_mode_a_relaxed_file_and_other_contents(models: str, capsys: pytest.CaptureFixture[str]) -> None:
    save({"net": STATE, "ema": {"w": torch.ones(1)}, "epoch": 1}, Path("in.pt"))
    assert said(capsys, "in.pt", "-o", "out.pt")[0] == 0
    assert said(capsys, "in.pt", "--check", "out.pt")[0] == 0
    assert said(capsys, "in.pt", "--check", "out.pt", "--mode", "fold")[0] == 1
    assert said(capsys, "in.pt", "--check", "in.pt")[0] == 1
    assert said(capsys, "in.pt", "--check", "out.pt", "--max-theta", "0.1")[0] == 1
    for changed in ({"epoch": 2}, {"ema": {"w": torch.zeros(1)}}, {"more": 3}):
        save({**load(Path("out.pt")), **changed}, Path("other.pt"))
        code, _, error = said(capsys, "in.pt", "--check", "other.pt")
        assert (code, f"first {next(iter(changed))}" in error) == (1, True), error
