"""Checkpoints that hold more than a state dict, and state dicts whose modules or weights are shared."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from relaxed_states import IRREPS, Relaxed, assert_same, load, relaxed_layer, save
from torch import Tensor, nn

from relaxify.checkpoint import convert
from relaxify.record import CheckpointError

FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])


def optimizer_state() -> dict[str, Any]:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(parameters)
    (parameters[0].sum() + parameters[1].sum()).backward()
    optimizer.step()
    return optimizer.state_dict()


def at(checkpoint: Any, *where: Any) -> Any:
    for key in where:
        checkpoint = checkpoint[key]
    return checkpoint


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_every_state_dict_is_converted_and_all_else_carried_over(mode: Any, tmp_path: Path) -> None:
    layer, average = relaxed_layer(seed=1), relaxed_layer(seed=2)
    checkpoint = {
        "epoch": 7,
        "model": layer.state("lin."),
        "optimizer": optimizer_state(),
        "ema": {"decay": 0.99, "shadow": [average.state("module.lin."), (1, None, {"kept": torch.arange(3)})]},
        "scheduler": {"base_lrs": [1e-3], "last_epoch": 7},
        "history": [0.5, 0.25, {"note": "text"}],
        5: {"deep": ({"deeper": [optimizer_state(), "after"]},)},
    }
    conversion = convert(save(checkpoint, tmp_path / "in.pt"), tmp_path / "out.pt", mode=mode)
    found = load(tmp_path / "out.pt")
    assert list(found) == ["epoch", "model", "ema", "scheduler", "history", 5]
    assert conversion.left_out == ("optimizer", "5.deep.0.deeper.0")
    assert [state.name for state in conversion.states] == ["model", "ema.shadow.0"]
    assert found["epoch"] == 7
    assert found["ema"]["decay"] == 0.99
    assert found["ema"]["shadow"][1][:2] == (1, None)
    assert torch.equal(found["ema"]["shadow"][1][2]["kept"], torch.arange(3))
    assert found["scheduler"] == checkpoint["scheduler"]
    assert found["history"] == checkpoint["history"]
    assert found[5] == {"deep": ({"deeper": ["after"]},)}
    for state, source, prefix in ((found["model"], layer, ""), (found["ema"]["shadow"][0], average, "module.")):
        expected = source.plain(f"{prefix}lin.")
        if mode == "drop":
            assert_same(state, expected)
        else:
            torch.testing.assert_close(
                state[f"{prefix}lin.weight"].double(), source.folded()["weight"], atol=1e-5, rtol=1e-5
            )


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    layer = relaxed_layer()
    checkpoint = {
        "epoch": 3,
        "global_step": 300,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": OrderedDict(layer.state("model.lin.")),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [optimizer_state(), optimizer_state()],
        "lr_schedulers": [{"last_epoch": 3}],
        "hyper_parameters": {"width": 8},
    }
    conversion = convert(save(checkpoint, tmp_path / "in.ckpt"), tmp_path / "out.ckpt", strip_prefix=True)
    found = load(tmp_path / "out.ckpt")
    assert list(found) == list(checkpoint)
    assert found["optimizer_states"] == []
    assert conversion.left_out == ("optimizer_states.0", "optimizer_states.1")
    assert_same(found["state_dict"], layer.plain("lin."))
    assert type(found["state_dict"]) is OrderedDict


def test_the_versions_that_state_dict_notes_stay_and_follow_the_names(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(4), lin=nn.Linear(26, 1)))
    expected = model.state_dict()
    layer = relaxed_layer()
    state = nn.Sequential(OrderedDict(module=model)).state_dict()
    state._metadata["module.lin.relaxation"] = {"version": 1}  # type: ignore[attr-defined]
    state.update(layer.state("module.lin."))
    convert(save({"model": state}, tmp_path / "in.pt"), tmp_path / "out.pt", strip_prefix=True)
    found = load(tmp_path / "out.pt")["model"]
    assert type(found) is OrderedDict
    assert found._metadata == expected._metadata  # type: ignore[attr-defined]
    convert(tmp_path / "in.pt", tmp_path / "kept.pt")
    assert list(load(tmp_path / "kept.pt")["model"]._metadata) == ["", "module", "module.norm", "module.lin"]


def test_a_nested_state_dict_alone_becomes_safetensors_and_the_rest_is_named(tmp_path: Path) -> None:
    layer = relaxed_layer()
    checkpoint = {"epoch": 7, "nets": [{"best": layer.state("lin."), "loss": 0.1}, 3], "optimizer": optimizer_state()}
    conversion = convert(save(checkpoint, tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert_same(load(tmp_path / "out.safetensors"), layer.plain("lin."))
    assert conversion.left_out == ("optimizer", "epoch", "nets.1", "nets.0.loss")


def test_two_state_dicts_do_not_become_one(tmp_path: Path) -> None:
    checkpoint = {"model": relaxed_layer().state(), "ema": relaxed_layer().state()}
    source = save(checkpoint, tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts \('model' and 'ema'\).*write a \.pt"):
        convert(source, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_metadata_that_torch_cannot_keep_is_named(tmp_path: Path) -> None:
    safetensors.torch.save_file(relaxed_layer().state(), tmp_path / "in.safetensors", metadata={"format": "pt", "run": "7"})
    assert convert(tmp_path / "in.safetensors", tmp_path / "out.pt").left_out == ("__metadata__",)


def shared(*aliases: str) -> Relaxed:
    return relaxed_layer(replace(IRREPS, path="encoder.lin", aliases=aliases))


def assert_folded(state: dict[str, Tensor], layer: Relaxed, *prefixes: str) -> None:
    for prefix in prefixes:
        found = state[f"{prefix}weight"].double()
        torch.testing.assert_close(found, layer.folded()["weight"], atol=1e-5, rtol=1e-5, msg=prefix)


@FORMATS
@pytest.mark.parametrize("root", ["", "module.", "net.model."])
def test_a_shared_module_is_folded_once_under_both_its_names(suffix: str, root: str, tmp_path: Path) -> None:
    layer = shared("decoder.out.lin")
    first, second = f"{root}encoder.lin.", f"{root}decoder.out.lin."
    state = {**layer.state(first), **layer.state(second)}
    if suffix == ".safetensors":
        state = {key: value.clone() for key, value in state.items()}
    conversion = convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", mode="fold")
    found = load(tmp_path / f"out{suffix}")
    assert set(found) == {*layer.plain(first), *layer.plain(second)}
    assert_folded(found, layer, first, second)
    if suffix == ".pt":
        assert found[f"{first}weight"].data_ptr() == found[f"{second}weight"].data_ptr()
        assert conversion.states[0].parameters_after == sum(value.numel() for value in layer.base.values())


@FORMATS
@pytest.mark.parametrize("root", ["", "_orig_mod."])
def test_tied_weights_are_folded_with_the_one_term(suffix: str, root: str, tmp_path: Path) -> None:
    """The term lies at one of the modules; another has only the weight, and a bias of its own."""
    layer = shared("head", "blocks.1.lin")
    state = layer.state(f"{root}encoder.lin.")
    for alias in ("head", "blocks.1.lin"):
        state[f"{root}{alias}.weight"] = layer.base["weight"] if suffix == ".pt" else layer.base["weight"].clone()
    state[f"{root}head.bias"] = torch.ones(4)
    convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", mode="fold")
    found = load(tmp_path / f"out{suffix}")
    assert_folded(found, layer, f"{root}encoder.lin.", f"{root}head.", f"{root}blocks.1.lin.")
    assert torch.equal(found[f"{root}head.bias"], torch.ones(4))
    if suffix == ".pt":
        assert found[f"{root}encoder.lin.weight"].data_ptr() == found[f"{root}head.weight"].data_ptr()


def test_a_shared_module_whose_tensors_the_file_keeps_once(tmp_path: Path) -> None:
    """As safetensors.torch.save_model does: of each shared tensor one name stays, but both records do."""
    layer = shared("decoder.lin")
    state = layer.state("decoder.lin.") | {"encoder.lin.relaxation._extra_state": layer.record.encode()}
    convert(save(state, tmp_path / "in.safetensors"), tmp_path / "out.safetensors", mode="fold")
    found = load(tmp_path / "out.safetensors")
    assert set(found) == {"decoder.lin.weight", "decoder.lin.bias"}
    assert_folded(found, layer, "decoder.lin.")


def test_an_alias_that_ends_as_the_path_does_is_told_apart(tmp_path: Path) -> None:
    layer = relaxed_layer(replace(IRREPS, path="lin", aliases=("net.lin",)))
    state = {**layer.state("model.lin."), **{k: v.clone() for k, v in layer.state("model.net.lin.").items()}}
    convert(save(state, tmp_path / "in.safetensors"), tmp_path / "out.safetensors", mode="fold")
    assert_folded(load(tmp_path / "out.safetensors"), layer, "model.lin.", "model.net.lin.")


def test_a_wrapper_inside_the_model_does_not_hide_a_neighbour(tmp_path: Path) -> None:
    layer = relaxed_layer(replace(IRREPS, path="net.a.lin", aliases=("net.b.lin",)))
    state = layer.state("net._orig_mod.a.lin.") | {"net._orig_mod.b.lin.weight": layer.base["weight"].clone()}
    convert(save(state, tmp_path / "in.safetensors"), tmp_path / "out.safetensors", mode="fold")
    assert_folded(load(tmp_path / "out.safetensors"), layer, "net._orig_mod.a.lin.", "net._orig_mod.b.lin.")


@FORMATS
def test_an_alias_that_cannot_be_found_is_no_fold(suffix: str, tmp_path: Path) -> None:
    """The encoder's state dict alone: whether `head.weight` is somewhere in it cannot be told."""
    layer = shared("head")
    source = save(layer.state("wrapped.lin."), tmp_path / f"in{suffix}")
    with pytest.raises(CheckpointError, match=r"wrapped\.lin shares its weight with head, whose place.*drop the term"):
        convert(source, tmp_path / f"out{suffix}", mode="fold")
    convert(source, tmp_path / f"out{suffix}")


def test_state_dicts_that_share_memory_are_folded_once(tmp_path: Path) -> None:
    layer = relaxed_layer()
    checkpoint = {"model": layer.state("lin."), "best": layer.state("lin.")}
    checkpoint["again"] = checkpoint["model"]
    convert(save(checkpoint, tmp_path / "in.pt"), tmp_path / "out.pt", mode="fold")
    found = load(tmp_path / "out.pt")
    assert found["again"] is found["model"]
    assert found["best"]["lin.weight"].data_ptr() == found["model"]["lin.weight"].data_ptr()
    for name in ("model", "best"):
        assert_folded(found[name], layer, "lin.")


def test_memory_shared_between_two_terms_is_no_fold(tmp_path: Path) -> None:
    first, second = relaxed_layer(replace(IRREPS, path="a")), relaxed_layer(replace(IRREPS, path="b"), seed=1)
    both = {**first.state("a."), **Relaxed(second.record, first.base, second.term).state("b.")}
    source = save(both, tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=r"b\.weight overlaps in memory"):
        convert(source, tmp_path / "out.pt", mode="fold")
    convert(source, tmp_path / "out.pt")


def test_views_of_one_memory_are_folded_apart(tmp_path: Path) -> None:
    memory, first, second = torch.zeros(52), relaxed_layer(replace(IRREPS, path="a")), relaxed_layer(seed=1)
    layers = [
        Relaxed(layer.record, {**layer.base, "weight": memory[i : i + 26]}, layer.term)
        for layer, i in ((first, 0), (second, 26))
    ]
    expected = copy.deepcopy([layer.folded()["weight"] for layer in layers])
    convert(save({**layers[0].state("a."), **layers[1].state("b.")}, tmp_path / "in.pt"), tmp_path / "out.pt", mode="fold")
    found = load(tmp_path / "out.pt")
    for prefix, value in zip(("a.", "b."), expected, strict=True):
        torch.testing.assert_close(found[f"{prefix}weight"].double(), value, atol=1e-5, rtol=1e-5)


def test_a_weight_that_is_no_contiguous_matrix(tmp_path: Path) -> None:
    from relaxed_states import VECTORS

    layer = relaxed_layer(VECTORS)
    turned = Relaxed(layer.record, {"weight": layer.base["weight"].mT.contiguous().mT}, layer.term)
    for target in (tmp_path / "out.pt", tmp_path / "out.safetensors"):
        convert(save(turned.state("lin."), tmp_path / "in.pt"), target, mode="fold")
        assert_folded(load(target), layer, "lin.")


def test_a_checkpoint_that_contains_itself(tmp_path: Path) -> None:
    layer = relaxed_layer()
    checkpoint: dict[str, Any] = {"model": layer.state(), "list": []}
    checkpoint["self"] = checkpoint
    checkpoint["list"].append(checkpoint["list"])
    convert(save(checkpoint, tmp_path / "in.pt"), tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert found["self"] is found
    assert_same(found["model"], layer.plain())


def test_parameters_saved_as_such(tmp_path: Path) -> None:
    layer = relaxed_layer()
    base = {name: nn.Parameter(value) for name, value in layer.base.items()}
    state = Relaxed(layer.record, base, {**layer.term, "weight": nn.Parameter(layer.term["weight"])}).state("lin.")
    convert(save(state, tmp_path / "in.pt"), tmp_path / "out.pt", mode="fold")
    found = load(tmp_path / "out.pt")
    assert isinstance(found["lin.weight"], nn.Parameter)
    assert_folded({key: value.detach() for key, value in found.items()}, layer, "lin.")


def several() -> tuple[dict[str, Relaxed], dict[str, Any]]:
    layers = {name: relaxed_layer(seed=seed) for seed, name in enumerate(("model", "ema", "swa", "best"))}
    return layers, {
        "model": layers["model"].state("lin."),
        "state_dict_ema": layers["ema"].state("lin."),
        "callbacks": {"averaging": {"swa": layers["swa"].state("module.lin.") | {"n_averaged": torch.tensor(3)}, "n": 3}},
        "kept": [{"weights": layers["best"].state("lin."), "loss": 0.5}],
        "optimizer": optimizer_state(),
        "args": Path("x"),
    }


@FORMATS
@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model", "model"),
        ("state_dict_ema", "ema"),
        ("callbacks.averaging.swa", "swa"),
        ("callbacks", "swa"),
        ("kept", "best"),
    ],
)
def test_one_of_several_state_dicts(key: str, name: str, mode: Any, suffix: str, tmp_path: Path) -> None:
    layers, checkpoint = several()
    strip = name == "swa"
    source = save(checkpoint, tmp_path / "in.pt")
    conversion = convert(source, tmp_path / f"out{suffix}", key=key, mode=mode, strip_prefix=strip)
    found = load(tmp_path / f"out{suffix}")
    if mode == "drop":
        assert_same(found, layers[name].plain("lin."))
    else:
        assert_folded(found, layers[name], "lin.")
    own = {"model": "model", "ema": "state_dict_ema", "swa": "callbacks", "best": "kept"}[name]
    assert {*checkpoint} - {own} <= {*conversion.left_out}
    assert ("n_averaged" in conversion.left_out) == strip
    assert ("kept.0.loss" in conversion.left_out) == (name == "best")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("emma", r"no state dict at 'emma'; give the key 'model' or 'state_dict_ema' or 'callbacks\.averaging\.swa' or"),
        ("mod", "no state dict at 'mod'"),
        ("", r"several state dicts \('model' and 'state_dict_ema' and .*choose one by its key"),
    ],
)
def test_a_key_of_nothing_lists_what_there_is(key: str, why: str, tmp_path: Path) -> None:
    source = save(several()[1], tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=why):
        convert(source, tmp_path / "out.safetensors", key=key)


def test_a_key_of_several_lists_them(tmp_path: Path) -> None:
    source = save({"ema": {"fast": relaxed_layer().state(), "slow": relaxed_layer().state()}}, tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts at 'ema'; give the key 'ema\.fast' or 'ema\.slow'"):
        convert(source, tmp_path / "out.pt", key="ema")


def test_a_key_where_there_is_one_state_dict_alone(tmp_path: Path) -> None:
    source = save(relaxed_layer().state("ema.lin."), tmp_path / "in.safetensors")
    with pytest.raises(CheckpointError, match=r"holds one state dict alone; leave the key out, or give 'ema\.' as a prefix"):
        convert(source, tmp_path / "out.pt", key="ema")
    convert(source, tmp_path / "out.pt", prefix="ema.")
