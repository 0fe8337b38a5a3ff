"""Checkpoints whose metadata only code could make again: what is plain is kept, the rest is named, nothing is run."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import re
import zipfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from relaxed_states import assert_same, load, relaxed_layer
from torch import nn

from relaxify.checkpoint import CheckpointError, convert
from relaxify_cli.main import run

LAYER = relaxed_layer()
ran: list[str] = []


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    width: int = 8

    def __setstate__(self, state: Any) -> None:
        ran.append("setstate")


class Slots:
    __slots__ = ("a",)


class Box(dict[str, Any]):
    """As EasyDict, addict and Lightning's AttributeDict are."""


class Named:
    """Protocol 4 has an operation for it."""

    def __new__(cls, *, a: int) -> Named:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"a": 1}


class Reduced:
    def __reduce__(self) -> Any:
        return noted, ("reduced",)


class Odd(torch.Tensor):
    pass


def noted(what: str) -> str:
    ran.append(what)
    return what


def tagged() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2))
    parameter.tag = Config()  # type: ignore[attr-defined]
    return parameter


class Pair(collections.namedtuple("Pair", "a b")):
    pass


FOREIGN = {
    "array": np.arange(3),
    "complex": np.complex64(1),
    "when": dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    "day": dt.date(2024, 2, 29),
    "span": dt.timedelta(1),
    "path": Path("a/b"),
    "args": argparse.Namespace(lr=1e-3, out=Path("x")),
    "color": Color.RED,
    "config": Config(),
    "slots": Slots(),
    "named": Named(a=1),
    "pair": Pair(1, 2),
    "class": Config,
    "function": noted,
    "partial": functools.partial(noted, "partial"),
    "method": Config().__eq__,
    "error": ValueError("a", Path("b")),
    "pattern": re.compile("a"),
    "decimal": decimal.Decimal("1.5"),
    "reduced": Reduced(),
    "module": nn.Linear(2, 2),
    "dtype": np.dtype("f4"),
    "set": {1, Color.RED},
    "version": torch.__version__,
}
NUMBERS = {
    "float64": np.float64(0.1),
    "float32": np.float32(0.1),
    "float16": np.float16(0.5),
    "int64": np.int64(-3),
    "uint8": np.uint8(200),
    "true": np.bool_(True),
    "big": np.array(7, ">i4")[()],
}


@pytest.fixture(autouse=True)
def _nothing_ran() -> Any:
    ran.clear()
    yield
    assert ran == []


def converted(content: Any, folder: Path, **options: Any) -> tuple[Any, tuple[str, ...]]:
    torch.save(content, folder / "in.pt", **options)
    ran.clear()
    conversion = convert(folder / "in.pt", folder / "out.pt", force=True)
    return load(folder / "out.pt"), conversion.left_out


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_what_only_code_can_read_is_named_and_the_rest_kept(legacy: bool, protocol: int, tmp_path: Path) -> None:
    content = {"epoch": 7, **FOREIGN, "model": LAYER.state("lin."), **NUMBERS, "last": [1, "two", None]}
    found, left_out = converted(content, tmp_path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert left_out == tuple(FOREIGN)
    assert list(found) == ["epoch", "model", *NUMBERS, "last"]
    assert_same(found["model"], LAYER.plain("lin."))
    for name, number in NUMBERS.items():
        assert found[name] == number
        assert type(found[name]) is type(number.item())
    assert (found["epoch"], found["last"]) == (7, [1, "two", None])


def test_places_in_lists_stay_and_plain_contents_of_other_classes_too(tmp_path: Path) -> None:
    shared = [1, Path("x")]
    content = {
        "model": LAYER.state("lin."),
        "list": shared,
        "again": shared,
        "tuple": (1, (Path("x"), 2)),
        "rng": np.random.default_rng(0).bit_generator.state | {"legacy": ("MT19937", np.zeros(3), 1)},
        "hyper_parameters": {"lr": 0.1, "deep": {"paths": [Path("x"), 2], "when": dt.date(2024, 1, 1)}},
        "box": Box(a=1, b=Path("x"), c=Box(d=2)),
        Path("key"): 1,
        (Color.RED, 1): 2,
        np.int64(3): "three",
        "counts": collections.defaultdict(int, a=1),
        "odd": torch.ones(2).as_subclass(Odd),
        "parameter": tagged(),
    }
    torch.save(content, tmp_path / "in.pt")
    left_out = convert(tmp_path / "in.pt", tmp_path / "out.pt").left_out
    # torch does not take defaultdict for plain
    found = torch.load(tmp_path / "out.pt", weights_only=False)
    assert found["counts"] == {"a": 1}
    assert found["counts"].default_factory is int
    assert found["list"] == [1, None]
    assert found["again"] is found["list"]
    assert found["tuple"] == (1, (None, 2))
    assert found["rng"]["legacy"] == ("MT19937", None, 1)
    assert found["hyper_parameters"] == {"lr": 0.1, "deep": {"paths": [None, 2]}}
    assert found["box"] == {"a": 1, "c": {"d": 2}}
    assert type(found["box"]) is dict
    assert found[3] == "three"
    assert torch.equal(found["odd"], torch.ones(2))
    assert torch.equal(found["parameter"], torch.ones(2))
    assert {name.partition(" ")[0] for name in left_out} == {
        *("list.1", "tuple.1.0", "rng.legacy.1", "hyper_parameters.deep.paths.0", "hyper_parameters.deep.when"),
        *("box", "box.b", "box.c", "<pathlib.PosixPath>", f"(<{__name__}.Color>,", "odd", "parameter"),
    }


def test_what_contains_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": LAYER.state("lin."), "box": Box(path=Path("x")), "list": [Path("y")]}
    content["self"] = content["box"]["up"] = content
    content["box"]["self"] = content["box"]
    content["list"] += [content["list"], (content["list"],)]
    found, _ = converted(content, tmp_path)
    assert found["self"] is found
    assert found["box"] is found["box"]["self"]
    assert found["box"].keys() == {"up", "self"}
    assert found["list"][:2] == [None, found["list"]]


def test_a_state_dict_of_a_class_of_its_own(tmp_path: Path) -> None:
    found, left_out = converted({"model": Box(LAYER.state("lin."))}, tmp_path)
    assert_same(found["model"], LAYER.plain("lin."))
    assert left_out == (f"model (its class {__name__}.Box)",)


class Net(lightning.LightningModule):
    def __init__(self, lr: float, out: Path, started: dt.date, args: argparse.Namespace) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_hyper_parameters_of_lightning(tmp_path: Path) -> None:
    net = Net(0.1, Path("runs"), dt.date(2024, 1, 1), argparse.Namespace(width=8))
    content: dict[str, Any] = {"state_dict": LAYER.state("model.lin."), "pytorch-lightning_version": "2"}
    net.on_save_checkpoint(content)
    content |= {net.CHECKPOINT_HYPER_PARAMS_KEY: net.hparams, net.CHECKPOINT_HYPER_PARAMS_TYPE: type(net.hparams)}
    found, left_out = converted(content, tmp_path)
    assert found["hyper_parameters"] == {"lr": 0.1}
    assert {"hyper_parameters.out", "hyper_parameters.started", "hyper_parameters.args"} < {*left_out}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (nn.Linear(2, 2), r"whole pickled model \(torch\.nn\.modules\.linear\.Linear\).*state_dict \(it has no terms\)"),
        (Path("x"), r"would run code \(pathlib.*state_dict alone"),
        ({"model": nn.Linear(2, 2), "epoch": 1}, r"no relaxify records but for what may be in model, which only code"),
    ],
)
def test_what_has_no_state_dict_outside_of_code(content: Any, why: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=why):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")


def with_pickle(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", data)


@pytest.mark.parametrize(
    "name", ["posix system", "builtins eval", "subprocess run", "os.path join", "importlib import_module"]
)
def test_an_attack_is_called_one(name: str, tmp_path: Path) -> None:
    module, function = name.split()
    with_pickle(tmp_path / "in.pt", b"\x80\x02}X\x01\x00\x00\x00ac%b\n%b\n)Rs." % (module.encode(), function.encode()))
    with pytest.raises(CheckpointError, match=rf"would run code \({module}\.{function}\)"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")


@pytest.mark.parametrize("data", [b"\x80\x02cm\nf\n" + b")R" * 5_000 + b".", b"\x80\x02cm\nf\n" + b"\x85" * 5_000 + b"."])
def test_deep_calls_are_refused_in_a_sentence(data: bytes, tmp_path: Path) -> None:
    with_pickle(tmp_path / "in.pt", data)
    with pytest.raises(CheckpointError, match=r"would run code \(m\.f\)|more than 100 levels"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")


def test_the_command_names_a_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": LAYER.state("lin."), **FOREIGN}, tmp_path / "in.pt")
    ran.clear()
    assert run(["convert", str(tmp_path / "in.pt"), "-o", str(tmp_path / "out.pt")]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out"))
    names = list(FOREIGN)
    assert said == f"Left out: {', '.join(names[:8])}, and {len(names) - 8} more."
