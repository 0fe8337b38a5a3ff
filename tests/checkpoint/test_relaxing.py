"""Relaxed training starts from a plain model's checkpoint: the relaxed model's loads strictly, and computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from e3nn import o3
from relaxed_states import load, save
from torch import Tensor, nn

from relaxify import RelaxConfig, penalty, relaxify, set_theta
from relaxify.checkpoint import CheckpointError, convert, relax
from relaxify_cli.main import run


class Net(nn.Module):
    """A layer under two names, a norm with buffers, one layer without terms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = o3.Linear("2x0e+2x1o", "2x0e+2x1o", biases=True)
        self.again = self.first
        self.norm = nn.BatchNorm1d(8)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.norm(self.first(x))) * self.scale


class Pictures(nn.Module):
    """Ordinary convolutions, whose kernels' rest is the term's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def pretrained(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    model = make()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_().abs_()
    return model


def relaxed(model: nn.Module, **config: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return relaxify(model, "SO(3)" if isinstance(model, Net) else "C(4)", config=RelaxConfig(**config))


def factory() -> nn.Module:
    torch.manual_seed(3)
    return relaxed(Net())


CASES = {
    "e3nn": (Net, torch.randn(5, 8), {}),
    "of low rank": (Net, torch.randn(5, 8), {"rank": 2}),
    "noise": (Net, torch.randn(5, 8), {"init": "normal"}),
    "convolutions": (Pictures, torch.randn(2, 1, 9, 9), {}),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
@pytest.mark.parametrize(("make", "x", "config"), CASES.values(), ids=CASES)
def test_it_is_what_relaxing_the_plain_model_makes(
    make: Callable[[], nn.Module], x: Tensor, config: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    plain = pretrained(make)
    source = save(plain.state_dict(), tmp_path / "in.pt")
    conversion = relax(source, tmp_path / f"out{suffix}", relaxed(make(), **config))
    expected = relaxed(pretrained(make), **config)
    found = load(tmp_path / "out" / "model.safetensors" if not suffix else tmp_path / f"out{suffix}")
    wanted = expected.state_dict()
    if suffix == ".pt":
        assert list(found) == list(wanted)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert {*conversion.states[0].added} == {key for key in wanted if "relaxation" in key}
    model = relaxed(make(), **config)
    model.load_state_dict(found, strict=True)
    # what theta is 0 for in training, and always in eval
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), expected.train(mode)(x))
    if make is Net:
        plain.load_state_dict(pretrained(make).state_dict())
        model.load_state_dict(found, strict=True)
        assert torch.equal(model.train()(x), plain.train()(x))


def test_there_and_back(tmp_path: Path) -> None:
    plain = pretrained(Net)
    save(plain.state_dict(), tmp_path / "in.pt")
    relax(tmp_path / "in.pt", tmp_path / "relaxed.safetensors", factory())
    convert(tmp_path / "relaxed.safetensors", tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in plain.state_dict().items())


def test_training_starts_from_it(tmp_path: Path) -> None:
    relax(save(pretrained(Net).state_dict(), tmp_path / "in.pt"), tmp_path / "out.pt", factory())
    model = factory()
    model.load_state_dict(load(tmp_path / "out.pt"))
    set_theta(model, 0.5)
    (model(torch.randn(5, 8)).square().mean() + penalty(model)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any("relaxation" in key and p.grad.any() for key, p in model.named_parameters())


@pytest.mark.parametrize("strip", [False, True])
def test_what_is_nested_and_wrapped(strip: bool, tmp_path: Path) -> None:
    """Every state dict that fits is relaxed; of optimizer states none has seen the terms."""
    plain, other = pretrained(Net), nn.Linear(2, 2)
    state = {f"module._orig_mod.{key}": value for key, value in plain.state_dict().items()}
    content = {
        "epoch": 3,
        "model": state,
        "ema": {**state, "n_averaged": torch.tensor(2)},
        "other": other.state_dict(),
        "optimizer": torch.optim.Adam(plain.parameters()).state_dict(),
    }
    conversion = relax(save(content, tmp_path / "in.pt"), tmp_path / "out.pt", factory(), strip_prefix=strip)
    found = load(tmp_path / "out.pt")
    assert list(found) == ["epoch", "model", "ema", "other"]
    assert [each.name for each in conversion.states] == ["model", "ema"]
    assert conversion.left_out == (("ema.n_averaged",) if strip else ()) + ("optimizer",)
    model = factory()
    ahead = "" if strip else "module._orig_mod."
    for name in ("model", "ema"):
        model.load_state_dict({k.removeprefix(ahead): v for k, v in found[name].items() if k != "n_averaged"}, strict=True)
    assert found["other"].keys() == other.state_dict().keys()
    relax(tmp_path / "in.pt", tmp_path / "ema.safetensors", factory(), key="ema", strip_prefix=True)
    assert load(tmp_path / "ema.safetensors").keys() == model.state_dict().keys()


def test_what_cannot_be_relaxed(tmp_path: Path) -> None:
    source, target = save(pretrained(Net).state_dict(), tmp_path / "in.pt"), tmp_path / "out.pt"

    def refused(path: Path, model: nn.Module, why: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=why):
            relax(path, target, model, **options)
        assert not target.exists()

    refused(source, Net(), "Net has no terms; give a model that relaxify has relaxed")
    refused(source, relaxed(Pictures()), r"nothing in it loads into the relaxed Pictures \(.*Missing key")
    refused(save(factory().state_dict(), tmp_path / "done.pt"), factory(), "has terms already; give a plain model's")
    refused(source, factory(), "none of its keys begins with a wrapper's prefix", strip_prefix=True)
    wrong = {key: value[:1] if value.ndim else value for key, value in pretrained(Net).state_dict().items()}
    refused(save(wrong, tmp_path / "wrong.pt"), factory(), "nothing in it loads into the relaxed Net .*size mismatch")
    refused(save({"epoch": 1}, tmp_path / "none.pt"), factory(), "nothing in it loads .*it holds no state dict")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = save(pretrained(Net).state_dict(), tmp_path / "in.pt"), tmp_path / "out.safetensors"
    arguments = ["convert", str(source), "-o", str(target), "--relax", f"{__file__}:factory"]
    assert run(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 keys kept, 6 added; 52 became 116 parameters (with buffers)." in said
    assert "Loads with strict=True into" in said
    factory().load_state_dict(load(target))
    assert run([*arguments, "--force", "--mode", "fold"]) == 2
    assert "leave --mode" in capsys.readouterr().err
