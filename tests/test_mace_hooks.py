"""What a relaxed training of MACE rests on, without MACE: hooks on functions, and models that are told whether they train.

Trainings with MACE itself are in environments/mace.
"""

from __future__ import annotations

import argparse
import sys
import types

import pytest
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, project, relaxed, relaxify
from relaxify.mace import train
from relaxify.mace.hook_points import TRIED, Call, HookPoint, hooked
from relaxify.mace.phases import follow_phases
from relaxify.mace.training import REFUSED
from relaxify_cli.main import run


class Handler:
    @staticmethod
    def load(state: str, strict: bool = True) -> tuple[str, bool]:
        return state, strict


def scale(x: float, factor: float = 2.0) -> float:
    return factor * x


SCALE = HookPoint("a_program", "scale", ("factor",))
LOAD = HookPoint("a_program", "Handler.load", ("state", "strict"))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("a_program")
    module.scale, module.Handler = scale, Handler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_program", module)
    return module


def doubled(call: Call) -> float:
    call["factor"] = 2 * call["factor"]
    result: float = call.proceed()
    return result


def test_a_hook_reads_and_replaces_arguments_by_name_however_they_are_given(program: types.ModuleType) -> None:
    with hooked({SCALE: doubled}):
        assert [program.scale(3.0), program.scale(3.0, 5.0), program.scale(x=3.0, factor=1.0)] == [12.0, 30.0, 6.0]
    assert program.scale is scale


def test_a_static_method_is_hooked_for_the_class_and_its_objects_and_given_back(program: types.ModuleType) -> None:
    before, seen = vars(Handler)["load"], []

    def see(call: Call) -> object:
        seen.append(call["strict"])
        return call.proceed()

    with hooked({LOAD: see}):
        assert Handler().load("a") == ("a", True)
        assert Handler.load("b", strict=False) == ("b", False)
    with pytest.raises(TypeError), hooked({LOAD: see}):
        Handler.load()  # type: ignore[call-arg]
    assert seen == [True, False]
    assert vars(Handler)["load"] is before


@pytest.mark.parametrize(
    ("point", "lack"),
    [
        (HookPoint("a_program", "shift", ()), "has no a_program.shift"),
        (HookPoint("a_program", "Loader.load", ()), "has no a_program.Loader.load"),
        (HookPoint("a_program", "scale", ("factor", "offset")), "a_program.scale has no argument 'offset'"),
    ],
)
def test_a_version_without_a_hook_point_is_refused_before_any_is_hooked(
    point: HookPoint, lack: str, program: types.ModuleType
) -> None:
    with (
        pytest.raises(ValueError, match=rf"{lack}, where .* is tried: {', '.join(TRIED)}"),
        hooked({SCALE: doubled, point: doubled}),
    ):
        pytest.fail("it was hooked")
    assert program.scale is scale


def test_without_mace_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mace", None)
    assert run(["mace-train", "--name", "x", "--until", "0.3"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("install MACE with all that its training needs: pip install 'relaxify[mace]'.")


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_are_not_known_to_work_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"leave --{option} out"):
        train(argparse.Namespace(**{option: True}))


class Told(nn.Module):
    """Stays in train() and is told by its caller whether it trains, as MACE's models are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)

    def forward(self, x: Tensor, training: bool = False) -> Tensor:
        return self.conv(x)


def test_terms_act_in_calls_that_train_and_in_no_others() -> None:
    model, x = Told(), torch.randn(2, 1, 5, 5)
    relaxify(model, "C(4)", config=RelaxConfig(theta=1.0, init="normal", std=1.0))
    stop = follow_phases(model)
    with torch.no_grad(), relaxed(model):
        acting = model.conv(x)
    plain = project(model)(x)
    for told in ({"training": False}, {}):
        torch.testing.assert_close(model(x, **told), plain)
    for trains in (model(x, training=True), model(x, True)):
        torch.testing.assert_close(trains, acting)
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 5, 5))
    torch.testing.assert_close(model(x, training=True), acting)
    assert not torch.allclose(plain, acting)
    stop()
    assert not model._forward_pre_hooks
    torch.testing.assert_close(model(x), acting)


def test_a_model_that_is_not_told_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential is not told by its caller whether it trains"):
        follow_phases(nn.Sequential())
