"""What training modules note in their checkpoints: numbered averages, arguments, optimizer states; without their code."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, project, relaxify, set_theta
from relaxify.checkpoint import CheckpointError, convert
from relaxify.checkpoint.notes import Note

MODULE = ("hyper_parameters", "module")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))


@functools.cache
def template() -> nn.Module:
    """With theta at 1/2."""
    model = relaxify(network(), "SO(3)", example_inputs=torch.randn(16, 3, 2), config=RelaxConfig(init="normal"))
    set_theta(model, 0.5)
    return model


def relaxed(seed: int) -> nn.Module:
    """With weights of which no two are alike."""
    model, generator = copy.deepcopy(template()), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model


def checkpoint(trained: nn.Module, average: nn.Module, note: Note | None = None) -> dict[str, Any]:
    """As a training module saves it that keeps averages by number."""
    optimizer = torch.optim.Adam(trained.parameters())
    for number, parameter in enumerate(trained.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    before = copy.deepcopy(list(trained.parameters()))
    optimizer.step()
    for parameter, value in zip(trained.parameters(), before, strict=True):
        parameter.data.copy_(value)
    state: dict[str, Any] = {f"net.{key}": value for key, value in trained.state_dict().items()}
    state |= {f"ema.weight_{number}": value.detach() for number, value in enumerate(average.parameters())}
    state |= {"ema._extra_state": {"decay": 0.9}, "stage": torch.zeros(1)}
    content: dict[str, Any] = {
        "state_dict": state,
        "hyper_parameters": {"module": {"_target_": "relaxed.Module", "relaxation": {"of": "plain.Module"}}, "rate": 0.1},
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"Relaxed": {"steps": 3}, "Other": {}},
    }
    return content if note is None else content | {"relaxify": note.written()}


def noted(trained: nn.Module) -> Note:
    return Note(
        state_dict=("state_dict",),
        parameters=tuple(f"net.{name}" for name, _ in trained.named_parameters()),
        averages="ema.weight_",
        replaced=(((*MODULE, "_target_"), "plain.Module"),),
        removed=((*MODULE, "relaxation"), ("callbacks", "Relaxed")),
    )


def saved(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


def _assert_alike(own: Any, other: Any) -> None:
    assert type(own) is type(other)
    if isinstance(own, dict):
        assert list(own) == list(other)
        for key, value in own.items():
            _assert_alike(value, other[key])
    elif isinstance(own, list):
        assert len(own) == len(other)
        for pair in zip(own, other, strict=True):
            _assert_alike(*pair)
    elif isinstance(own, Tensor):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)
    else:
        assert own == other


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_the_whole_checkpoint_becomes_the_plain_modules(mode: Any, tmp_path: Path) -> None:
    trained, average = relaxed(0), relaxed(1)
    source = saved(tmp_path / "relaxed.ckpt", checkpoint(trained, average, noted(trained)))
    convert(source, tmp_path / "plain.ckpt", mode=mode)
    wanted = checkpoint(project(trained, mode=mode), project(average, mode=mode))
    # the gradients by which the optimizer's states are told from each other
    wanted["optimizer_states"] = [_states_of([0, 2, 4], project(trained))]
    wanted["hyper_parameters"] = {"module": {"_target_": "plain.Module"}, "rate": 0.1}
    wanted["callbacks"] = {"Other": {}}
    _assert_alike(torch.load(tmp_path / "plain.ckpt", weights_only=True), wanted)


def _states_of(gradients: list[int], model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(model.parameters())
    for number, parameter in zip(gradients, model.parameters(), strict=True):
        parameter.grad = torch.full_like(parameter, number)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(("key", "seed"), [("state_dict", 0), ("state_dict.ema", 1)])
def test_the_averages_and_what_was_trained_are_each_had_alone(key: str, seed: int, tmp_path: Path) -> None:
    trained, average = relaxed(0), relaxed(1)
    source = saved(tmp_path / "relaxed.ckpt", checkpoint(trained, average, noted(trained)))
    done = convert(source, tmp_path / "one.pt", key=key)
    found = torch.load(done.target, weights_only=True)
    plain = {f"net.{name}": value for name, value in project(relaxed(seed)).state_dict().items()}
    _assert_alike(found, plain | {"stage": torch.zeros(1)})
    other = "state_dict.ema" if key == "state_dict" else "state_dict"
    assert other in done.left_out
    assert "hyper_parameters" in done.left_out


def test_without_a_key_safetensors_hold_neither(tmp_path: Path) -> None:
    trained, average = relaxed(0), relaxed(1)
    source = saved(tmp_path / "relaxed.ckpt", checkpoint(trained, average, noted(trained)))
    with pytest.raises(CheckpointError, match=r"'state_dict' and 'state_dict\.ema'"):
        convert(source, tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"state_dict": "state_dict"},
        {"parameters": [1]},
        {"averages": 3},
        {"replaced": [["hyper_parameters"]]},
        {"replaced": [[["hyper_parameters"], {"a": 1}]]},
        {"removed": None},
        {"parameters": ["net.0.weight", "net.7.weight"]},
        {"averages": "average_"},
    ],
)
def test_a_note_that_does_not_hold_is_named_and_nothing_written(change: dict[str, Any], tmp_path: Path) -> None:
    trained, average = relaxed(0), relaxed(1)
    content = checkpoint(trained, average, noted(trained))
    content["relaxify"] |= change
    source = saved(tmp_path / "relaxed.ckpt", content)
    with pytest.raises(CheckpointError, match="save the relaxed model again"):
        convert(source, tmp_path / "plain.ckpt")
    assert not (tmp_path / "plain.ckpt").exists()
