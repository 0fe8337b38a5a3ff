"""Every bad input or output is one clear sentence: the input is untouched, and nothing is left behind."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxed_states import IRREPS, assert_same, digest, load, relaxed_layer, save
from safetensors.torch import save_file
from torch import Tensor

from relaxify.checkpoint import Conversion, check_converted, compare, convert
from relaxify.record import CheckpointError
from relaxify.sites import Path as FoldPath

FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
State = dict[str, Tensor]


def fails(source: Path, target: Path, match: str, **options: Any) -> None:
    """One sentence that names the input or the output, the input's bytes as they were, and no file more than before."""
    before, files = digest(source), sorted(target.parent.iterdir())
    with pytest.raises(CheckpointError, match=match) as caught:
        convert(source, target, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(source) in message or str(target) in message
    assert digest(source) == before
    assert sorted(target.parent.iterdir()) == files


def without(*keys: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in keys:
            del state[key]

    return change


def put(key: str, value: Tensor) -> Callable[[State], None]:
    return lambda state: state.update({key: value})


BAD_STATES: dict[str, tuple[Callable[[State], None], str]] = {
    "no record": (without("lin.relaxation._extra_state"), r"whose record lin\.relaxation\._extra_state is missing"),
    "only a weight": (
        without("lin.relaxation._extra_state", "lin.relaxation.theta"),
        r"lin\.relaxation\.weight belongs to a term whose record",
    ),
    "no weight": (without("lin.relaxation.weight"), r"lin\.relaxation\.weight is missing though its record is there"),
    "no theta": (without("lin.relaxation.theta"), r"lin\.relaxation\.theta is missing though its record is there"),
    "a stray key": (put("lin.relaxation.bias", torch.ones(2)), r"lin\.relaxation\.bias is not a key of the term"),
    "a factor too many": (put("lin.relaxation.up", torch.ones(2)), r"lin\.relaxation\.up is not a key of the term"),
    "no base": (without("lin.weight"), r"lin\.weight is missing though the record"),
    "base of another shape": (put("lin.weight", torch.ones(25)), r"lin\.weight has shape \(25,\), but .* says \(26,\)"),
    "term transposed": (put("lin.relaxation.weight", torch.ones(12, 10)), r"has shape \(12, 10\), but .* says \(10, 12\)"),
    "term flat": (
        put("lin.relaxation.weight", torch.ones(120)),
        r"has shape \(120,\), but its? .* says \(10, 12\)|has shape \(120,\)",
    ),
    "theta of a vector": (put("lin.relaxation.theta", torch.ones(1)), r"theta has shape \(1,\), but .* says \(\)"),
    "theta an integer": (put("lin.relaxation.theta", torch.tensor(1)), r"theta holds no floating-point values"),
    "record cut": (
        put("lin.relaxation._extra_state", IRREPS.encode()[:-9]),
        r"lin\.relaxation\._extra_state: the relaxify record is invalid: it is not JSON",
    ),
    "record of another": (
        put("lin.relaxation._extra_state", torch.zeros(4, dtype=torch.uint8)),
        r"lin\.relaxation\._extra_state: the relaxify record is invalid",
    ),
    "record of a later version": (
        put("lin.relaxation._extra_state", torch.tensor(list(b'{"format":"relaxify/9"}'), dtype=torch.uint8)),
        r"written by a newer relaxify; upgrade relaxify",
    ),
    "unprintable key": (
        lambda state: state.update({f"a\x1b[2J{key}": state.pop(key) for key in list(state)}),
        r"unprintable characters",
    ),
    "already clean": (
        without("lin.relaxation._extra_state", "lin.relaxation.theta", "lin.relaxation.weight"),
        r"holds no relaxify records.*is it already clean\?",
    ),
}


@FORMATS
@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize(("change", "match"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_state_dict_that_does_not_fit_its_records(
    change: Callable[[State], None], match: str, suffix: str, mode: str, tmp_path: Path
) -> None:
    state: State = {"first": torch.ones(2), **relaxed_layer(replace(IRREPS, path="lin")).state("lin.")}
    change(state)
    fails(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", match, mode=mode)


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_factors_that_do_not_multiply(mode: str, tmp_path: Path) -> None:
    layer = relaxed_layer(rank=2)
    state = {**layer.state("lin."), "lin.relaxation.up": torch.ones(10, 3)}
    fails(save(state, tmp_path / "in.pt"), tmp_path / "out.pt", r"up has shape \(10, 3\), but .* says \(10, 2\)", mode=mode)


def test_a_small_file_cannot_ask_for_a_huge_product(tmp_path: Path) -> None:
    block, n = replace(IRREPS.rep_in[0], multiplicity=200_000), 200_000
    record = replace(
        IRREPS,
        rep_in=(block,),
        rep_out=(block,),
        weight_keys=("up", "down"),
        paths=(FoldPath("w", 0, 0, 0),),
        base_shapes={"w": (n * n,)},
    )
    state = {
        "w": torch.zeros(1).expand(n * n),
        "relaxation.up": torch.ones(n, 1),
        "relaxation.down": torch.ones(1, n),
        "relaxation.theta": torch.tensor(1.0),
        "relaxation._extra_state": record.encode(),
    }
    fails(save(state, tmp_path / "in.pt"), tmp_path / "out.pt", "200000 x 200000 is too large to fold", mode="fold")


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_a_term_that_is_not_all_in_the_file(mode: str, tmp_path: Path) -> None:
    state = {**relaxed_layer().state("lin."), "lin.relaxation.weight": torch.ones(1).expand(10, 12)}
    fails(save(state, tmp_path / "in.pt"), tmp_path / "out.pt", r"weight has fewer entries in the file", mode=mode)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
@FORMATS
def test_a_truncated_file(suffix: str, share: float, tmp_path: Path) -> None:
    source = save(relaxed_layer().state("lin."), tmp_path / f"in{suffix}")
    data = source.read_bytes()
    source.write_bytes(data[: max(1, int(share * len(data)))])
    fails(
        source, tmp_path / f"out{suffix}", r"is not a complete (safetensors file|torch checkpoint) \(.*save or copy it again"
    )


@FORMATS
@pytest.mark.parametrize(
    "data",
    [b"x", b"\x00" * 5000, b"PK\x03\x04", b"not a checkpoint, but text\n" * 9, struct.pack("<Q", 2**60), b"\x80\x02."],
)
def test_a_file_of_something_else(suffix: str, data: bytes, tmp_path: Path) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(data)
    fails(source, tmp_path / f"out{suffix}", r"is not a complete (safetensors file|torch checkpoint)")


@FORMATS
def test_a_file_of_the_other_format(suffix: str, tmp_path: Path) -> None:
    other = ".pt" if suffix == ".safetensors" else ".safetensors"
    source = save(relaxed_layer().state("lin."), tmp_path / f"in{other}").rename(tmp_path / f"in{suffix}")
    fails(source, tmp_path / f"out{suffix}", r"is not a complete (safetensors file|torch checkpoint)")


@pytest.mark.parametrize("content", [[1, 2], "text", torch.ones(3), {"a": 1}, None, {"model": {}}])
def test_a_torch_file_without_terms(content: object, tmp_path: Path) -> None:
    fails(save(content, tmp_path / "in.pt"), tmp_path / "out.pt", "holds no relaxify records")


def test_an_average_of_parameters_alone_is_told(tmp_path: Path) -> None:
    """An EMA of the parameters has the terms' weights but neither theta nor records: it would be left relaxed."""
    layer = relaxed_layer()
    shadow = {"lin.weight": layer.base["weight"], "lin.relaxation.weight": layer.term["weight"]}
    source = save({"model": layer.state("lin."), "shadow": shadow}, tmp_path / "in.pt")
    fails(source, tmp_path / "out.pt", r"lin\.relaxation\.weight belongs to a term whose record .* is missing")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['RELAXIFY_TEST_PROOF']}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_never_run(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the environment asks torch to trust every checkpoint."""
    proof = tmp_path / "proof"
    monkeypatch.setenv("RELAXIFY_TEST_PROOF", str(proof))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    source = tmp_path / "in.pt"
    content = {"model": relaxed_layer().state("lin."), "extra": Evil()}
    torch.save(content, source, _use_new_zipfile_serialization=not legacy)
    fails(source, tmp_path / "out.pt", r"would run code \((posix|os)\.system\).*state_dict alone")
    assert not proof.exists()


def test_a_bare_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof, source = tmp_path / "proof", tmp_path / "in.bin"
    monkeypatch.setenv("RELAXIFY_TEST_PROOF", str(proof))
    source.write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    fails(source, tmp_path / "out.pt", r"would run code|is not a complete torch checkpoint")
    assert not proof.exists()


def test_a_scripted_model_is_code(tmp_path: Path) -> None:
    source = tmp_path / "in.pt"
    with zipfile.ZipFile(source, "w") as file:
        for name in ("data.pkl", "constants.pkl", "version", "code/model.py"):
            file.writestr(f"in/{name}", b"3\n")
    fails(source, tmp_path / "out.pt", "TorchScript archive.*save the model's state_dict")


def torch_of_old(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def test_an_old_format_of_torch_is_read(tmp_path: Path) -> None:
    layer = relaxed_layer()
    torch_of_old(layer.state("lin."), tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "out.pt")
    assert_same(load(tmp_path / "out.pt"), layer.plain("lin."))


@pytest.mark.parametrize("name", ["model.t7", "last", "epoch.3", "model_best.pth.tar"])
def test_a_checkpoint_of_any_name_is_known_by_how_it_begins(name: str, tmp_path: Path) -> None:
    layer, source, target = relaxed_layer(), tmp_path / name, tmp_path / "out.pth.tar"
    for write in (torch.save, torch_of_old, save_file):
        if write is save_file and name.endswith(".tar"):
            continue
        write(layer.state("lin."), source)
        convert(source, target, force=True)
        assert_same(load(target), layer.plain("lin."))
        assert check_converted(source, target).is_equal
        assert compare(source, source).is_equal


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("missing.pt", "No such file"),
        ("folder.pt", "is a folder"),
        ("in", "suffix '', which tells no format"),
        ("in.json", "'.json'"),
    ],
)
def test_an_input_that_is_no_checkpoint_file(name: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    for file in ("in", "in.json"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(CheckpointError, match=match):
        convert(tmp_path / name, tmp_path / "out.pt")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "in.pt").touch()
    fails(tmp_path / "in.pt", tmp_path / "out.pt", "is empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    source = save(relaxed_layer().state(), tmp_path / "in.pt")
    source.chmod(0)
    with pytest.raises(CheckpointError, match=r"cannot read .*Permission denied"):
        convert(source, tmp_path / "out.pt")


@FORMATS
def test_an_existing_output_needs_force(suffix: str, tmp_path: Path) -> None:
    layer = relaxed_layer()
    source, target = save(layer.state(), tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    target.write_text("precious")
    fails(source, target, r"out\.\w+ exists; .*force=True")
    assert target.read_text() == "precious"
    convert(source, target, force=True)
    assert_same(load(target), layer.plain())


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    source, target = save(relaxed_layer().state(), tmp_path / "in.pt"), tmp_path / "out.pt"
    target.symlink_to(tmp_path / "nowhere.pt")
    fails(source, target, "exists")


@FORMATS
@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to], ids=["itself", "symlink", "hardlink"])
def test_the_input_is_never_overwritten(link: Callable[[Path, Path], None] | None, suffix: str, tmp_path: Path) -> None:
    source, target = save(relaxed_layer().state(), tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    if link is None:
        target = tmp_path / "." / f"in{suffix}"
    else:
        link(target, source)
    fails(source, target, "which is never overwritten", force=True)


def test_forcing_over_a_link_replaces_the_link_only(tmp_path: Path) -> None:
    source, target = save(relaxed_layer().state(), tmp_path / "in.pt"), tmp_path / "out.pt"
    (tmp_path / "other.pt").write_text("precious")
    target.symlink_to(tmp_path / "other.pt")
    convert(source, target, force=True)
    assert (tmp_path / "other.pt").read_text() == "precious"
    assert not target.is_symlink()


def test_an_output_in_no_folder_or_of_no_format(tmp_path: Path) -> None:
    source = save(relaxed_layer().state(), tmp_path / "in.pt")
    (tmp_path / "folder.pt").mkdir()
    for name, match in {
        "nowhere/out.pt": "its folder does not exist; create it",
        "folder.pt": "is a folder; give the name of a file",
        "out.onnx": "suffix '.onnx', which tells no format; use one of .safetensors, .pt",
    }.items():
        with pytest.raises(CheckpointError, match=match):
            convert(source, tmp_path / name)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    source = save(relaxed_layer().state(), tmp_path / "in.pt")
    for bound in (-1.0, float("nan")):
        with pytest.raises(CheckpointError, match=f"max_theta is {bound}"):
            convert(source, tmp_path / "out.pt", max_theta=bound)


@pytest.mark.parametrize("value", [torch.ones(2, dtype=torch.complex128), torch.ones(2).to_sparse(), {"an": "object"}])
def test_what_safetensors_cannot_hold(value: object, tmp_path: Path) -> None:
    source = save({**relaxed_layer().state("lin."), "other": value}, tmp_path / "in.pt")
    fails(source, tmp_path / "out.safetensors", r"other is a .* write a \.pt")
    convert(source, tmp_path / "out.pt", mode="fold")
    assert set(load(tmp_path / "out.pt")) == {"lin.weight", "lin.bias", "other"}


@FORMATS
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_whatever_stops_it_at_the_end_leaves_nothing(error: Any, suffix: str, tmp_path: Path) -> None:
    source = save(relaxed_layer().state("lin."), tmp_path / f"in{suffix}")
    target, seen = tmp_path / f"out{suffix}", []

    def stop(path: Path, conversion: Conversion) -> None:
        seen.append(set(load(path)))
        raise error

    with pytest.raises((KeyboardInterrupt, ValueError)):
        convert(source, target, check=stop)
    assert seen == [{"lin.weight", "lin.bias"}]
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@FORMATS
def test_a_file_that_appears_meanwhile_is_not_overwritten(suffix: str, tmp_path: Path) -> None:
    source, target = save(relaxed_layer().state(), tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"

    def appear(path: Path, conversion: Conversion) -> None:
        target.write_text("precious")

    with pytest.raises(CheckpointError, match="exists"):
        convert(source, target, check=appear)
    assert target.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2
