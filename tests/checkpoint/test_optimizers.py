"""Training goes on from a projected checkpoint bit for bit as with an optimizer that was made for the plain model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.distributed.checkpoint as dcp
from e3nn import o3
from relaxed_states import load, relaxed_layer, save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from relaxify import project, relaxify
from relaxify.checkpoint import convert

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Layers with terms and without, buffers, a layer under two names, a parameter that nothing uses, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(()))
        self.first = o3.Linear("2x0e+2x1o", "2x0e+2x1o", biases=True)
        self.again = self.first
        self.norm = nn.BatchNorm1d(8)
        self.last = o3.Linear("2x0e+2x1o", "2x0e+2x1o")
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.norm(self.first(x)))) * self.scale


def relaxed() -> Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return relaxify(Net(), "SO(3)")


Make = Callable[[nn.Module], torch.optim.Optimizer]


def trainable(model: nn.Module, name: Callable[[str], bool] = lambda _: True) -> list[nn.Parameter]:
    return [parameter for key, parameter in model.named_parameters() if parameter.requires_grad and name(key)]


def groups(model: nn.Module, *names: Callable[[str], bool]) -> Iterable[Any]:
    found = [trainable(model, name) for name in names]
    return [{"params": chosen, "lr": 0.01 * (index + 1)} for index, chosen in enumerate(found) if chosen]


def is_term(name: str) -> bool:
    return "relaxation" in name


MAKES: dict[str, Make] = {
    "Adam": lambda model: torch.optim.Adam(model.parameters(), 0.01),
    "AdamW": lambda model: torch.optim.AdamW(trainable(model), 0.01, amsgrad=True),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), 0.01),
    "SGD, momentum": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True),
    "RMSprop": lambda model: torch.optim.RMSprop(trainable(model), 0.01, momentum=0.5, centered=True),
    "Adagrad": lambda model: torch.optim.Adagrad(trainable(model), 0.01),
    "with names": lambda model: torch.optim.Adam(model.named_parameters(), 0.01),
    "terms apart": lambda model: torch.optim.Adam(groups(model, is_term, lambda name: not is_term(name))),
    "by depth": lambda model: torch.optim.AdamW(
        groups(
            model, lambda name: "last" in name, lambda name: "last" not in name and "norm" not in name, lambda n: "norm" in n
        )
    ),
    "only biases decay": lambda model: torch.optim.SGD(
        groups(model, lambda name: not name.endswith("bias"), lambda name: name.endswith("bias")), momentum=0.9
    ),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def plain_optimizer(
    make: Make, plain: nn.Module, relaxed: nn.Module, before: torch.optim.Optimizer
) -> torch.optim.Optimizer:
    """Made for the plain model, with what the one before had of each of its parameters."""
    after, names = make(plain), dict(relaxed.named_parameters())
    for name, parameter in plain.named_parameters():
        if (entry := before.state.get(names[name])) is not None:
            after.state[parameter] = copy.deepcopy(entry)
    return after


def assert_goes_on(found: dict[str, Any], make: Make, plain: nn.Module, expected: torch.optim.Optimizer) -> None:
    model = Net()
    model.load_state_dict(found["model"])
    optimizer = make(model)
    optimizer.load_state_dict(found["optimizer"])
    wanted = expected.state_dict()
    for group, made in zip(found["optimizer"]["param_groups"], wanted["param_groups"], strict=True):
        assert group["params"] == made["params"]
    assert found["optimizer"]["state"].keys() == wanted["state"].keys()
    for net, optimiser in ((model, optimizer), (plain, expected)):
        train(net, optimiser, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_training_goes_on(make: Make, mode: Any, tmp_path: Path) -> None:
    model = relaxed()
    optimizer = make(model)
    train(model, optimizer, 3)
    source = save({"optimizer": optimizer.state_dict(), "model": model.state_dict(), "epoch": 3}, tmp_path / "in.pt")
    conversion = convert(source, tmp_path / "out.pt", mode=mode)
    assert conversion.left_out == ()
    found = load(tmp_path / "out.pt")
    assert found["epoch"] == 3
    plain = Net()
    plain.load_state_dict(found["model"])
    if mode == "drop":
        plain = project(model)
    assert_goes_on(found, make, plain, plain_optimizer(make, plain, model, optimizer))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD, momentum"])
def test_before_the_first_step(name: str, tmp_path: Path) -> None:
    """Nothing tells one parameter from another, and nothing needs to: they are as many less as there are terms."""
    model, make = relaxed(), MAKES[name]
    source = save({"model": model.state_dict(), "optimizer": make(model).state_dict()}, tmp_path / "in.pt")
    assert convert(source, tmp_path / "out.pt").left_out == ()
    plain = project(model)
    assert_goes_on(load(tmp_path / "out.pt"), make, plain, make(plain))


def test_of_several_groups_before_the_first_step_it_cannot_be_told(tmp_path: Path) -> None:
    model, make = relaxed(), MAKES["by depth"]
    source = save({"model": model.state_dict(), "optimizer": make(model).state_dict()}, tmp_path / "in.pt")
    assert convert(source, tmp_path / "out.pt").left_out == ("optimizer",)


def test_schedulers_lose_the_groups_that_are_gone(tmp_path: Path) -> None:
    model, make = relaxed(), MAKES["terms apart"]
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LinearLR(optimizer), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)],
        [2],
    )
    for _ in range(3):
        train(model, optimizer, 1)
        scheduler.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    convert(save(content, tmp_path / "in.pt"), tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert found["optimizer"]["param_groups"] == [
        {**content["optimizer"]["param_groups"][1], "params": [0, 1, 2, 3, 4, 5, 6]}
    ]
    rate = content["scheduler"]["_last_lr"][1]
    assert found["scheduler"]["_last_lr"] == [rate]
    assert [len(inner["base_lrs"]) for inner in found["scheduler"]["_schedulers"]] == [1, 1]
    assert found["scheduler"]["_milestones"] == [2]


class Lit(lightning.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor]) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            self.manual_backward(self.net(batch[0]).square().mean())
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        first = torch.optim.Adam([*self.net.first.parameters()], 0.01)
        return [first, torch.optim.SGD([*self.net.last.parameters()], 0.1, momentum=0.9)]


def test_lightning_goes_on(tmp_path: Path) -> None:
    """Trained, saved and resumed by Lightning, with two optimizers of parts of the model."""

    def trainer(steps: int) -> lightning.Trainer:
        return lightning.Trainer(
            max_steps=2 * steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip

    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=6)
    lit = Lit(relaxed())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = trainer(3)
        first.fit(lit, batches)
        first.save_checkpoint(tmp_path / "in.ckpt")
        conversion = convert(tmp_path / "in.ckpt", tmp_path / "out.ckpt")
        plain = Lit(Net())
        trainer(6).fit(plain, batches, ckpt_path=tmp_path / "out.ckpt", weights_only=False)
        expected = Lit(project(lit.net))
        optimizers = expected.configure_optimizers()
        for before, after, name in zip(first.optimizers, optimizers, ("first", "last"), strict=True):
            names = dict(getattr(lit.net, name).named_parameters())
            for key, parameter in getattr(expected.net, name).named_parameters():
                after.state[parameter] = copy.deepcopy(before.state[names[key]])
    assert not any("optimizer" in name for name in conversion.left_out)
    for _ in range(3):
        for optimizer in optimizers:
            expected.net(X).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found, wanted = plain.net.state_dict(), expected.net.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted if "batches_tracked" not in key)


@pytest.mark.filterwarnings("ignore")
def test_a_state_by_names_in_a_folder(tmp_path: Path) -> None:
    """As FSDP's states are, which torch.distributed.checkpoint keeps by the parameters' names."""
    model, make = relaxed(), MAKES["AdamW"]
    optimizer = make(model)
    train(model, optimizer, 3)
    state = get_optimizer_state_dict(model, optimizer)
    dcp.save({"model": model.state_dict(), "optimizer": state}, checkpoint_id=tmp_path / "in", no_dist=True)
    assert convert(tmp_path / "in", tmp_path / "out.pt").left_out == ()
    found, plain = load(tmp_path / "out.pt"), project(model)
    expected = get_optimizer_state_dict(plain, plain_optimizer(make, plain, model, optimizer))
    assert found["optimizer"]["state"].keys() == expected["state"].keys()
    assert found["optimizer"]["param_groups"][0]["params"] == expected["param_groups"][0]["params"]
    for name, entry in expected["state"].items():
        assert all(torch.equal(found["optimizer"]["state"][name][key], value) for key, value in entry.items())


def test_a_state_by_numbers_in_a_folder(tmp_path: Path) -> None:
    """torch.distributed.checkpoint makes texts of the numbers."""
    model, make = relaxed(), MAKES["SGD, momentum"]
    optimizer = make(model)
    train(model, optimizer, 3)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(content, checkpoint_id=tmp_path / "in", no_dist=True)
    assert convert(tmp_path / "in", tmp_path / "out.pt").left_out == ()
    plain = project(model)
    assert_goes_on(load(tmp_path / "out.pt"), make, plain, plain_optimizer(make, plain, model, optimizer))


def test_what_cannot_be_told_is_left_out_and_named(tmp_path: Path) -> None:
    """A term and a weight of one shape, of which one alone was trained; and states that are of no model here."""
    layer = relaxed_layer()
    model = layer.state("lin.") | {"other": torch.zeros(10, 12)}
    either = torch.optim.Adam([nn.Parameter(torch.zeros(10, 12))])
    either.param_groups[0]["params"][0].sum().backward()
    either.step()
    content = {
        "model": model,
        "either": either.state_dict(),
        "another": {"state": {}, "param_groups": [{"params": list(range(99))}]},
        "odd": {"state": [], "param_groups": "text"},
        "gone": [{"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": [{"params": [0]}]}, "after"],
    }
    conversion = convert(save(content, tmp_path / "in.pt"), tmp_path / "out.pt")
    assert conversion.left_out == ("either", "another", "odd", "gone.0")
    assert load(tmp_path / "out.pt")["gone"] == ["after"]


def test_the_optimizer_of_a_model_without_terms_stays_as_it_is(tmp_path: Path) -> None:
    model, other = relaxed(), nn.Sequential(nn.Linear(8, 7), nn.Linear(7, 1))
    first, second = MAKES["Adam"](model), MAKES["Adam"](other)
    train(model, first, 2)
    train(other, second, 2)
    content = {
        "generator": model.state_dict(), "discriminator": other.state_dict(),
        "optimizers": (first.state_dict(), second.state_dict()),
    }  # fmt: skip
    assert convert(save(content, tmp_path / "in.pt"), tmp_path / "out.pt").left_out == ()
    found = load(tmp_path / "out.pt")["optimizers"]
    assert len(found[0]["param_groups"][0]["params"]) == len(list(Net().parameters()))
    again = MAKES["Adam"](other)
    again.load_state_dict(found[1])
    assert all(torch.equal(again.state[p]["exp_avg"], second.state[p]["exp_avg"]) for p in other.parameters())
