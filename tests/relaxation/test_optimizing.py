"""Optimizers and the terms' parameters: apart, each once, with a rate of their own and no decay; and still converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import vn_net
from torch import nn

from relaxify import (
    RelaxConfig,
    Triangle,
    add_terms,
    param_groups,
    penalty,
    print_trainable_parameters,
    project,
    relaxation_parameters,
    relaxify,
)
from relaxify.checkpoint import convert
from relaxify.relaxation.pitfalls import PitfallWarning


def plain_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))


def relaxed_net(**options: Any) -> nn.Module:
    return relaxify(plain_net(), "C(4)", config=RelaxConfig(**options))


def ids(parameters: Any) -> list[int]:
    return [id(entry[1] if isinstance(entry, tuple) else entry) for entry in parameters]


@pytest.mark.parametrize("rank", [None, 2])
def test_the_terms_parameters_are_what_relaxing_added(rank: int | None) -> None:
    model = plain_net()
    own = ids(model.parameters())
    relaxify(model, "C(4)", config=RelaxConfig(rank=rank))
    added = [number for number in ids(model.parameters()) if number not in own]
    assert ids(relaxation_parameters(model)) == added
    base, terms = param_groups(model)
    assert (ids(base["params"]), ids(terms["params"])) == (own, added)
    assert terms["weight_decay"] == 0.0
    assert "lr" not in terms


GROUPS: dict[str, Callable[[nn.Module], Any]] = {
    "parameters": lambda model: model.parameters(),
    "named": lambda model: model.named_parameters(),
    "groups": lambda model: [{"params": model[0].parameters(), "lr": 0.5}, {"params": list(model[1:].parameters())}],
    "named groups": lambda model: [{"params": list(model.named_parameters()), "lr": 0.5}],
    "one tensor": lambda model: [{"params": model[0].bias}, {"params": [model[2].weight]}],
    "nothing but terms": lambda model: [{"params": relaxation_parameters(model)}, {"params": [model[0].bias]}],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=list(GROUPS))
def test_your_own_groups_stay_and_lose_the_terms(groups: Callable[[nn.Module], Any]) -> None:
    model = relaxed_net()
    terms = set(ids(relaxation_parameters(model)))
    given = groups(model)
    made = param_groups(model, given, terms_lr=0.25, weight_decay=0.1)
    optimizer = torch.optim.AdamW(made, lr=0.125, weight_decay=0.5)
    *own, last = optimizer.param_groups
    assert set(ids(last["params"])) == terms
    assert (last["lr"], last["weight_decay"]) == (0.25, 0.1)
    whole = groups(model)
    expected = whole if isinstance(whole, list) and isinstance(whole[0], dict) else [{"params": whole}]
    for ours, theirs in zip(own, expected, strict=True):
        entries = [theirs["params"]] if isinstance(theirs["params"], torch.Tensor) else theirs["params"]
        assert ids(ours["params"]) == [number for number in ids(entries) if number not in terms]
        assert (ours["lr"], ours["weight_decay"]) == (theirs.get("lr", 0.125), 0.5)


def test_an_optimizer_that_exists_gets_the_terms_once() -> None:
    model = plain_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    optimizer.param_groups[0]["lr"] = 0.01
    relaxify(model, "C(4)")
    add_terms(optimizer, model)
    add_terms(optimizer, model, terms_lr=3.0)
    _, terms = optimizer.param_groups
    assert ids(terms["params"]) == ids(relaxation_parameters(model))
    assert (terms["lr"], terms["weight_decay"]) == (0.01, 0.0)
    whole = torch.optim.Adam(model.parameters())
    add_terms(whole, model)
    assert len(whole.param_groups) == 1


def test_an_optimizer_of_named_parameters_keeps_names() -> None:
    model = plain_net()
    optimizer = torch.optim.Adam(model.named_parameters())
    add_terms(optimizer, relaxify(model, "C(4)"), terms_lr=0.5, betas=(0.5, 0.9))
    group = optimizer.param_groups[1]
    assert group["param_names"] == ["0.relaxation.weight", "2.relaxation.weight"]
    assert (group["lr"], group["betas"]) == (0.5, (0.5, 0.9))


def test_a_scheduler_that_was_made_before_is_told() -> None:
    model = plain_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    with pytest.raises(ValueError, match=r"scheduler was made of this optimizer before.* param_groups"):
        add_terms(optimizer, relaxify(model, "C(4)"))
    assert len(optimizer.param_groups) == 1


def test_a_model_that_is_not_relaxed_is_refused() -> None:
    model = plain_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    calls = (
        lambda: relaxation_parameters(model),
        lambda: param_groups(model),
        lambda: add_terms(optimizer, model),
        lambda: print_trainable_parameters(model),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match=r"no relaxation terms .* call relaxify"):
            call()


def test_what_is_frozen_is_not_counted_as_trained(capsys: pytest.CaptureFixture[str]) -> None:
    model = relaxed_net()
    model[2].requires_grad_(False)
    print_trainable_parameters(model)
    total, terms = sum(p.numel() for p in model.parameters()), 2 * 9 * 3 + 3 * 9 * 2
    trained = total - sum(p.numel() for p in model[2].parameters())
    out = capsys.readouterr().out
    assert f"trainable params: {trained} || all params: {total} || trainable%: {100 * trained / total:.4f}" in out
    assert f"relaxation params: {terms} (gone after project)" in out


@pytest.mark.parametrize("make", ["param_groups", "add_terms"])
def test_a_checkpoint_with_such_an_optimizer_converts(make: str, tmp_path: Path) -> None:
    """The optimizer's state loses the terms and fits the plain model's groups."""
    model = plain_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    relaxify(model, "C(4)")
    if make == "param_groups":
        optimizer = torch.optim.Adam(param_groups(model), lr=1e-2)
    else:
        add_terms(optimizer, model)
    theta = Triangle(model, 4)
    theta.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.randn(4, 2, 7, 7)).square().mean() + penalty(model)).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "out.pt")
    saved = torch.load(tmp_path / "out.pt", weights_only=True)
    plain = plain_net()
    plain.load_state_dict(saved["model"], strict=True)
    (group, *rest) = saved["optimizer"]["param_groups"]
    assert len(group["params"]) == len(list(plain.parameters()))
    assert all(not other["params"] for other in rest)
    for number, (name, _) in zip(group["params"], plain.named_parameters(), strict=True):
        expected = optimizer.state[model.get_parameter(name)]["exp_avg"]
        assert torch.equal(saved["optimizer"]["state"][number]["exp_avg"], expected)


def test_terms_that_never_learned_are_told_when_projecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaxify.relaxation.pitfalls.PATIENCE", 6)
    model, group, batch = vn_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    relaxify(model, group)
    theta = Triangle(model, 16)
    for _ in range(6):
        (model(*batch).square().mean() + penalty(model)).backward()
        optimizer.step()
        theta.step()
    with pytest.warns(PitfallWarning, match=r"acted in training and are all still zero.*add_terms"):
        project(model)
