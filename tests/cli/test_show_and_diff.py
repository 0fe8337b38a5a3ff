"""relaxify show and relaxify diff: what they print, to people and to programs, and how they exit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxed_states import IRREPS, VECTORS, relaxed_layer, save

from relaxify_cli.main import run

STATE = {
    "embedding.weight": torch.ones(1000, 40),
    **relaxed_layer(replace(IRREPS, path="lin")).state("lin."),
    **relaxed_layer(replace(VECTORS, path="vn", unfoldable="its [attribute] varies"), rank=2).state("vn."),
}
STATE["head.weight"] = STATE["embedding.weight"]


def printed(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    assert run(list(command)) == code
    return "\n".join(" ".join(line.split()) for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def nested(tmp_path: Path) -> str:
    rest: dict[str, Any] = {"epoch": 3, "optimizer": {"state": {0: {}}, "param_groups": []}, "note": "x" * 100}
    return str(save({"model": STATE, **rest}, tmp_path / "nested.pt"))


def test_show_says_what_is_in_a_file(nested: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "show", nested)
    for text in (
        f"{nested}: torch.save, 1",
        "State dict at model: 12 tensors, 41,",
        "(float32 16",
        "embedding.weight float32 1000x40 160.0 kB\n",
        "lin.relaxation.theta float32 () 4 B",
        "head.weight float32 1000x40 160.0 kB embedding.weight",
        "2 terms for O(3), SO(3), record format relaxify/1: 7 of the tensors",
        "lin O(3) 0.7 2x0e+3x1o+1x0e -> 2x1o+4x0e full 120 yes",
        "vn SO(3) 0.7 3xvector -> 5xvector 2 48 no: its [attribute] varies",
        "epoch 3",
        "optimizer the state of an optimizer (1 entries)",
        f"note '{'x' * 59}...",
    ):
        assert text in shown, text


def test_show_tells_programs_the_same(nested: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", nested, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["kind"], found["rest"]["epoch"]) == ("relaxify-contents/1", "torch.save", "3")
    (state,) = found["states"]
    assert (state["where"], state["problem"], len(state["tensors"])) == (["model"], None, 12)
    assert [(term["path"], term["theta"], term["rank"]) for term in state["terms"]] == [
        ("lin", pytest.approx(0.7), None),
        ("vn", pytest.approx(0.7), 2),
    ]
    assert state["totals"]["size"] == sum(each["size"] for each in state["tensors"] if each["same_as"] is None)


def test_show_says_of_damaged_terms_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {key: value for key, value in STATE.items() if key != "lin.relaxation._extra_state"}
    shown = printed(capsys, "show", str(save(state, tmp_path / "in.pt")))
    assert "Its terms cannot be read: lin.relaxation.theta belongs to a term whose record" in shown
    assert "lin.weight float32 26 104 B" in shown


def test_show_of_many_keys_has_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"layers.{index}.weight\x1b[2J": torch.ones(2) for index in range(310)}
    shown = printed(capsys, "show", str(save(state, tmp_path / "in.pt")))
    assert all(f"layers.{index}.weight\\x1b[2J float32 2 8 B" in shown for index in (0, 299, 300, 309))


def test_a_file_without_a_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "show", str(save({"epoch": 3}, tmp_path / "in.pt")))
    assert "It holds no state dict.\n\nAlso in the file\nname what\nepoch 3" in shown


def test_diff_exits_with_0_for_the_same_and_1_for_others(
    nested: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {key: value.clone() for key, value in STATE.items()}
    same = str(save(alone, tmp_path / "flat.safetensors"))
    assert printed(capsys, "diff", nested, same) == "No difference: 12 tensors are the same."
    alone["lin.weight"][0] += 0.25
    alone["more"] = alone.pop("lin.bias")
    other = str(save(alone, tmp_path / "other.safetensors"))
    shown = printed(capsys, "diff", same, other, code=1)
    assert f"Only in {same}\nkey\nlin.bias" in shown
    assert f"Only in {other}\nkey\nmore" in shown
    assert "key |A - B| relative entries\nlin.weight 2.50e-01 " in shown
    assert "1 tensor is different, 2 in one of them alone; 10 tensors are the same." in shown
    assert run(["diff", same, other, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["is_equal"], found["only_b"], found["differing"][0]["largest"]) == (False, ["more"], 0.25)


@pytest.mark.parametrize("command", [["show", "none.pt"], ["diff", "none.pt", "none.pt"]])
def test_a_file_that_is_not_there_is_bad_input(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 2
    assert "cannot read none.pt: No such file" in capsys.readouterr().err
