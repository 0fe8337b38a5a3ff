"""Two processes with half of the batch each: the penalty, its gradient and theta are those of one process with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxation.replica import CASES, CONTROLLERS, STEPS, WORLD, relaxed_net, step, trained
from torch import nn

from relaxify import project
from relaxify.modules.sharding import whole
from relaxify.relaxation.distributed import averaged, replicas_of

WAYS = pytest.mark.parametrize("way", ["ddp", "fsdp", "fsdp by layers"])
NAMES = pytest.mark.parametrize("name", list(CASES))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder, script = tmp_path_factory.mktemp("replicas"), Path(__file__).with_name("replica.py")
    tests = script.parents[1]
    places = (str(tests), str(tests.parent / "examples"), os.environ.get("PYTHONPATH"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}
    commands = [[sys.executable, str(script), str(k), str(folder / "meet"), str(folder / f"{k}.pt")] for k in range(WORLD)]
    started = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert all(process.returncode == 0 for process in started), errors
    return [torch.load(folder / f"{k}.pt", weights_only=True) for k in range(WORLD)]


@NAMES
@WAYS
def test_two_processes_are_one(results: list[dict[str, Any]], name: str, way: str) -> None:
    model, batch = relaxed_net(name)
    expected = step(model, batch, model)
    for result in (process[name][way] for process in results):
        torch.testing.assert_close(result["penalty"], expected["penalty"], rtol=1e-5, atol=0)
        assert result["thetas"] == expected["thetas"]
        assert result["gradients"].keys() == expected["gradients"].keys()
        for key, gradient in expected["gradients"].items():
            torch.testing.assert_close(result["gradients"][key], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: k + m)


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_two_processes_train_as_one(results: list[dict[str, Any]], name: str) -> None:
    """theta of every step is the same number in both, and to rounding one process's, beyond the end of the terms too."""
    model, batch = relaxed_net("rms")
    expected = trained(model, batch, model, name)
    first, second = (process[name] for process in results)
    assert first["thetas"] == second["thetas"]
    torch.testing.assert_close(torch.tensor(first["thetas"]), torch.tensor(expected["thetas"]), rtol=1e-4, atol=1e-6)
    assert first["updates"] == expected["updates"]
    for key, weight in expected["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key])
        torch.testing.assert_close(first["weights"][key], weight, rtol=1e-4, atol=1e-5)
    if name != "ACE, partial":
        assert set(first["thetas"][-1]) == {0.0}
        assert all(count < STEPS for count in first["updates"])


@NAMES
@pytest.mark.parametrize("way", ["fsdp", "fsdp by layers"])
def test_a_sharded_model_is_saved_and_projected_whole(results: list[dict[str, Any]], name: str, way: str) -> None:
    model, batch = relaxed_net(name)
    step(model, batch, model)
    for result in (process[name][way] for process in results):
        state = model.state_dict()
        assert result["state"].keys() == state.keys()
        for key, value in state.items():
            if not key.endswith("_extra_state"):
                assert torch.equal(result["state"][key], value) or "theta" in key
        for mode, found in result["projected"].items():
            expected = project(model, mode=mode).state_dict()
            assert list(found) == list(expected)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-3 if mode == "fit" else 1e-6)


def test_alone_nothing_is_exchanged() -> None:
    assert replicas_of(nn.Linear(2, 2)) is None
    weight = nn.Parameter(torch.zeros(2))
    assert whole(weight) is weight


def test_shares_add_up_to_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that saw 1 and 3 rows, with means 4 and 8, the batch's mean is 7; gradients are 2/4 and 6/4."""
    other = torch.tensor([8.0 * 3, 3.0], dtype=torch.float64)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat, group: flat.add_(other))
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 2)
    own = torch.tensor([4.0], requires_grad=True)
    mean = averaged.__wrapped__({0: own}, {0: torch.tensor(1)}, None)[0]
    mean.backward()
    assert mean.item() == 7
    assert own.grad.item() == 0.5
