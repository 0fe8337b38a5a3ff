"""docs/errors.md: bad inputs of many kinds, and the one sentence that each gets, in Python and on the command line.

Written by PYTHONPATH=tests .venv/bin/python -m bad_inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import json
import os
import shlex
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from checkpoint_bombs import BOMBS
from relaxed_states import IRREPS, relaxed_layer, save
from torch import Tensor, nn

from relaxify.checkpoint import convert, load_weights
from relaxify.record import Record
from relaxify_cli.main import run

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
LAYER = relaxed_layer(replace(IRREPS, path="lin"))
STATE = LAYER.state("lin.")
Make = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A bad input: what it is, what makes it in the working folder, and the command that meets it."""

    what: str
    make: Make
    command: str = "convert in.pt -o out.pt"
    python: Callable[[], object] | None = None


def state(what: str, target: str = "out.pt", options: str = "", **changes: Tensor | None) -> Case:
    """A state dict with some entries changed, or left out; `__` in names stands for a point."""
    entries = {key.replace("__", "."): value for key, value in changes.items()}
    found = {key: value for key, value in (STATE | entries).items() if value is not None}
    return torch_file(what, found, target, options)


def torch_file(what: str, content: Any, target: str = "out.pt", options: str = "") -> Case:
    return Case(what, lambda folder: torch.save(content, folder / "in.pt"), f"convert in.pt -o {target}{options}")


def raw(what: str, content: bytes, name: str = "in.pt") -> Case:
    return Case(what, lambda folder: (folder / name).write_bytes(content) and None, f"convert {name} -o out.pt")


def header(what: str, text: bytes, data: bytes = b"") -> Case:
    return raw(what, struct.pack("<Q", len(text)) + text + data, "in.safetensors")


def record(what: str, **changes: Any) -> Case:
    document = json.loads(bytes(IRREPS.encode().numpy())) | changes
    return state(what, lin__relaxation___extra_state=torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8))


def archive(what: str, change: Callable[[str, bytes], bytes | None], how: int = zipfile.ZIP_STORED) -> Case:
    def make(folder: Path) -> None:
        torch.save(STATE, folder / "plain.pt")
        with zipfile.ZipFile(folder / "plain.pt") as source, zipfile.ZipFile(folder / "in.pt", "w", how) as out:
            for name in source.namelist():
                if (content := change(name, source.read(name))) is not None:
                    out.writestr(name, content)
        (folder / "plain.pt").unlink()

    return Case(what, make)


def pickled(what: str, content: bytes) -> Case:
    return archive(what, lambda name, data: content if name.endswith("data.pkl") else data)


def bomb(name: str, what: str) -> Case:
    write, suffix = BOMBS[name]
    return Case(what, lambda folder: write(folder / f"in{suffix}"), f"convert in{suffix} -o out.pt --mode fold")


def good(folder: Path) -> None:
    save(STATE, folder / "in.pt")


def with_target(make: Make) -> Make:
    def both(folder: Path) -> None:
        good(folder)
        make(folder)

    return both


def npz(what: str, arrays: dict[str, Any], options: str = "") -> Case:
    return Case(what, lambda folder: np.savez(folder / "in.npz", **arrays), f"symmetry in.npz{options}")


def table(what: str, content: str, options: str = "") -> Case:
    return Case(what, lambda folder: (folder / "in.csv").write_text(content) and None, f"symmetry in.csv{options}")


def text_file(what: str, text: str) -> Case:
    return Case(what, lambda folder: (folder / "log.csv").write_text(text) and None, "history log.csv -o out.png")


def _flipped(folder: Path) -> None:
    torch.save({**STATE, "big": torch.zeros(1000)}, folder / "in.pt")
    data = bytearray((folder / "in.pt").read_bytes())
    data[data.index(bytes(4000)) + 2000] = 1
    (folder / "in.pt").write_bytes(data)


def _flipped_copy(folder: Path) -> None:
    _flipped(folder)
    (folder / "in.pt").rename(folder / "other.pt")
    torch.save({**STATE, "big": torch.zeros(1000)}, folder / "in.pt")


def _cut(folder: Path) -> None:
    good(folder)
    os.truncate(folder / "in.pt", 2000)


def _wide(folder: Path) -> None:
    n, block = 9000, replace(IRREPS.rep_in[0], multiplicity=9000)
    path = replace(IRREPS.paths[0], offset=0, block_in=0, block_out=0)
    shapes = {"weight": (n * n,)}
    wide = replace(IRREPS, rep_in=(block,), rep_out=(block,), weight_keys=("up", "down"), paths=(path,), base_shapes=shapes)
    term = {"up": torch.ones(n, 1), "down": torch.ones(1, n), "theta": torch.tensor(1.0), "_extra_state": wide.encode()}
    keys = {f"relaxation.{name}": value for name, value in term.items()}
    torch.save({"weight": torch.zeros(1).expand(n * n), **keys}, folder / "in.pt")


def _spoilt_kernel(folder: Path) -> None:
    """An ordinary convolution that was symmetrised in training."""
    block = replace(IRREPS.rep_in[0], multiplicity=1)
    basis = ((0.5, 0.5, 0.5, 0.5),)
    record = replace(IRREPS, path="conv", rep_in=(block,) * 4, rep_out=(block,), paths=(), symmetriser=basis,
                     base_shapes={"weight": (1, 1, 2, 2)})  # fmt: skip
    term = {"weight": torch.ones(1, 4), "theta": torch.tensor(0.0), "_extra_state": record.encode()}
    kernel = torch.tensor([1.0, 2.0, 3.0, float("nan")]).view(1, 1, 2, 2)
    torch.save(
        {"conv.weight": kernel, **{f"conv.relaxation.{name}": value for name, value in term.items()}}, folder / "in.pt"
    )


def weights(what: str, content: Any) -> Case:
    def load() -> None:
        load_weights(nn.Linear(3, 2), Path("in.pt"))

    command = "inspect torch.nn:Identity --inputs x.safetensors --group SO3 --checkpoint in.pt"

    def make(folder: Path) -> None:
        torch.save(content, folder / "in.pt")
        safetensors.torch.save_file({"0": torch.ones(2, 3)}, folder / "x.safetensors")

    return Case(what, make, command, load)


def nan() -> Tensor:
    value = STATE["lin.relaxation.weight"].clone()
    value[0, 0] = float("nan")
    return value


def _below(prefix: str, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in entries.items()}


def _index(folder: Path, named: dict[str, str], *_: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": named} if named else {}))


def _folder_of(folder: Path, *names: str, latest: str = "") -> None:
    (folder / "in").mkdir()
    for name in names:
        save(STATE, folder / "in" / name)
    if latest:
        (folder / "in" / "latest").write_text(latest)


def _distributed(folder: Path, metadata: bytes) -> None:
    _folder_of(folder, "a.pt")
    (folder / "in" / ".metadata").write_bytes(b"\x80\x02" + metadata)


def _deepspeed(folder: Path) -> None:
    _folder_of(folder)
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"module": STATE, "optimizer_state_dict": {"zero_stage": 2}}, folder / "in" / name)


INDEX, PART = "model.safetensors.index.json", "model-00001-of-00002.safetensors"
ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
TEXT = Record.encode(IRREPS)
CASES: dict[str, list[Case]] = {
    "Files": [
        Case("no file", lambda folder: None),
        Case("an empty file", lambda folder: (folder / "in.pt").touch()),
        Case("a folder", lambda folder: (folder / "in.pt").mkdir()),
        Case("a pipe", lambda folder: os.mkfifo(folder / "in.pt")),
        Case("a suffix that tells no format", lambda folder: (folder / "in.onnx").write_text("x") and None,
             "convert in.onnx -o out.pt"),
        raw("text", b"not a checkpoint, but text\n"),
        raw("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        raw("a pointer of Git LFS to a safetensors file", b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
            "in.safetensors"),
        raw("what gzip has compressed", gzip.compress(b"a checkpoint", mtime=0)),
        raw("a page that was downloaded in its place", b"<!DOCTYPE html><html>404</html>", "in.bin"),
        raw("an image", b"\x89PNG\r\n\x1a\n" + bytes(99)),
        Case("a file cut short", _cut),
        Case("a flipped bit in a tensor", _flipped),
        Case("a safetensors file by the name of a .pt",
             lambda folder: safetensors.torch.save_file(STATE, folder / "in.pt")),
    ],
    "Outputs": [
        Case("an output that exists", with_target(lambda folder: (folder / "out.pt").touch())),
        Case("an output that is a dangling link", with_target(lambda folder: (folder / "out.pt").symlink_to("nowhere"))),
        Case("an output that is the input", good, "convert in.pt -o in.pt --force"),
        Case("an output that is a hard link to the input",
             with_target(lambda folder: (folder / "out.pt").hardlink_to(folder / "in.pt")),
             "convert in.pt -o out.pt --force"),
        Case("an output that is a folder", with_target(lambda folder: (folder / "out.pt").mkdir())),
        Case("an output in no folder", good, "convert in.pt -o nowhere/out.pt"),
        Case("an output of no format", good, "convert in.pt -o out.gguf"),
    ],
    "Records and terms": [
        torch_file("a checkpoint without terms", LAYER.plain("lin.")),
        state("a term without its record", lin__relaxation___extra_state=None),
        state("a term without its weight", lin__relaxation__weight=None),
        state("a term without theta", lin__relaxation__theta=None),
        state("a key too many in a term", lin__relaxation__bias=torch.ones(2)),
        state("a layer without its weight", lin__weight=None),
        state("a layer of another shape", lin__weight=torch.ones(25)),
        state("a term of another shape", lin__relaxation__weight=torch.ones(12, 10)),
        state("an integer theta", lin__relaxation__theta=torch.tensor(1)),
        state("NaN in a term that is folded", options=" --mode fold", lin__relaxation__weight=nan()),
        Case("NaN in a kernel of which the symmetric part is kept", _spoilt_kernel),
        state("a term that repeats one entry", lin__relaxation__weight=torch.ones(1).expand(10, 12)),
        state("a record cut short", lin__relaxation___extra_state=TEXT[:-9]),
        state("a record that was averaged or cast", lin__relaxation___extra_state=TEXT.float()),
        state("a record that is no text", lin__relaxation___extra_state=torch.full((9,), 255, dtype=torch.uint8)),
        record("a record of a later version", format="relaxify/2"),
        record("a record of another program", format="peft/1"),
        record("a record without a field that it needs", paths=None),
        record("a record with a field too many", extra=1),
        record("a record whose path joins what does not fit",
               paths=[{"parameter": "weight", "offset": 0, "block_in": 0, "block_out": 0, "scale": 1.0, "order": "in_out"}]),
        record("a record with an escape code", group="\x1b[2J"),
        torch_file("a key with an escape code", {f"\x1b[2J{key}": value for key, value in STATE.items()}),
        torch_file("theta above what is allowed", STATE, options=" --max-theta 0.5"),
        Case("a rank-1 term that is far larger than its file", _wide, "convert in.pt -o out.pt --mode fold"),
    ],
    "What safetensors cannot hold": [
        torch_file("a number among the tensors", {**STATE, "epoch": 3}, "out.safetensors"),
        torch_file("a key that is a number", {**STATE, 3: torch.ones(1)}, "out.safetensors"),
        torch_file("a tensor called __metadata__", {**STATE, "__metadata__": torch.ones(1)}, "out.safetensors"),
        torch_file("a key that is no Unicode", {**STATE, "\ud800": torch.ones(1)}, "out.safetensors"),
        torch_file("a sparse tensor", {**STATE, "a": torch.eye(2).to_sparse()}, "out.safetensors"),
        torch_file("a tensor of complex128", {**STATE, "a": torch.ones(2, dtype=torch.complex128)}, "out.safetensors"),
        torch_file("two state dicts", {"model": STATE, "ema": dict(STATE)}, "out.safetensors"),
        torch_file("a tensor that repeats one entry", {**STATE, "a": torch.zeros(1).expand(2**28)}, "out.safetensors"),
    ],
    "Headers of safetensors": [
        raw("a header that is longer than the file", struct.pack("<Q", 2**60) + b"{}", "in.safetensors"),
        header("a header that is no JSON", b"{"),
        header("a key given twice", b"{" + ONE + b"," + ONE + b"}", bytes(4)),
        header("an unknown dtype", b'{"a":{"dtype":"F31","shape":[],"data_offsets":[0,4]}}', bytes(4)),
        header("bytes that do not fit the shape", b"{" + ONE.replace(b"[1]", b"[2]") + b"}", bytes(4)),
        header("a gap between tensors", b"{" + ONE.replace(b"[0,4]", b"[4,8]") + b"}", bytes(8)),
        header("more bytes than tensors", b"{" + ONE + b"}", bytes(5)),
        header("metadata that are no texts", b'{"__metadata__":{"a":1}}'),
    ],
    "Archives and pickles of torch": [
        pickled("code", b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R."),
        Case("a TorchScript archive", lambda folder: _scripted(folder / "in.pt")),
        archive("an archive without its pickle", lambda name, data: None if name.endswith("data.pkl") else data),
        archive("a storage that is not there", lambda name, data: None if name.endswith("data/0") else data),
        archive("a storage cut short", lambda name, data: data[:20] if name.endswith("data/0") else data),
        archive("bytes of a big-endian machine", lambda name, data: b"big" if name.endswith("byteorder") else data),
        pickled("an empty pickle", b""),
        pickled("an operation that torch.save does not use", b"\x80\x02\xff."),
        pickled("a tuple of tuples as a key", b"\x80\x02}NN\x86N\x86Ns."),
        pickled("a storage that is none", b"\x80\x02NQ."),
    ],
    "Small files that would cost much": [
        bomb("many_axes", "a record with a shape of 250,000 axes"),
        bomb("deep_pickle", "80,000 lists, one in the other"),
        bomb("one_record_many_times", "one memory that is 3,000 records"),
        bomb("one_weight_many_times", "one memory that is 3,000 terms"),
        bomb("many_taps", "a symmetriser of 300,000 taps"),
        bomb("packed_pickle", "a pickle that unpacks to 300 MB"),
        bomb("many_objects", "a header of a million empty objects"),
    ],
    "Several files and folders": [
        Case("an index of nothing", lambda folder: _index(folder, {}), f"convert {INDEX} -o out.pt"),
        Case("an index of files elsewhere", lambda folder: _index(folder, {"a": "../a.safetensors"}),
             f"convert {INDEX} -o out.pt"),
        Case("a file that is missing", lambda folder: _index(folder, {"a": PART}), f"convert {INDEX} -o out.pt"),
        Case("one of several files", lambda folder: _index(folder, {"a": PART}, save(STATE, folder / PART)),
             f"convert {PART} -o out.pt"),
        Case("a folder with two checkpoints", lambda folder: _folder_of(folder, "a.pt", "b.pt"), "convert in -o out.pt"),
        Case("metadata of a distributed checkpoint that are code",
             lambda folder: _distributed(folder, b"cposix\nsystem\n)R."), "convert in -o out.pt"),
        Case("metadata of a distributed checkpoint that are something else", lambda folder: _distributed(folder, b"}."),
             "convert in -o out.pt"),
        Case("a folder of DeepSpeed without its latest", lambda folder: _folder_of(folder, "a.pt", latest="step9"),
             "convert in -o out.pt"),
        Case("files of DeepSpeed without the shapes", _deepspeed, "convert in -o out.pt"),
        Case("a folder that exists", with_target(lambda folder: (folder / "out").mkdir()), "convert in.pt -o out --force"),
        Case("several files by the name of one", good, "convert in.pt -o out.pt --max-shard-size 1GB"),
        Case("a size that is none", good, "convert in.pt -o out --max-shard-size large"),
    ],
    "Keys and prefixes": [
        torch_file("a key of nothing", {"model": STATE, "ema": dict(STATE)}, options=" --key emma"),
        torch_file("a key of several", {"ema": {"fast": STATE, "slow": dict(STATE)}}, options=" --key ema"),
        Case("a key in a file of one state dict", lambda folder: save(STATE, folder / "in.safetensors") and None,
             "convert in.safetensors -o out.pt --key ema"),
        torch_file("a prefix of nothing", STATE, options=" --prefix net."),
        torch_file("no wrapper's prefix", STATE, options=" --strip-prefix"),
        torch_file("a wrapper's prefix that some keys lack", {**_below("net.", STATE), "loss": torch.ones(1)},
                   options=" --strip-prefix"),
        torch_file("one key twice without prefixes", {**_below("net.", STATE), "net.a._orig_mod.b": nan(), "net.a.b": nan()},
                   options=" --strip-prefix"),
    ],
    "What only code can read": [
        torch_file("a whole model", nn.Linear(2, 2)),
        torch_file("a whole model in a dictionary", {"model": nn.Linear(2, 2), "epoch": 1}),
        torch_file("an object", argparse.Namespace()),
        pickled("an attack", b"\x80\x02}X\x01\x00\x00\x00acbuiltins\neval\n)Rs."),
    ],
    "Plain checkpoints to relax": [
        Case("a model without terms", good, "convert in.pt -o out.pt --relax torch.nn:Identity"),
        Case("terms to add and to fold", good, "convert in.pt -o out.pt --relax torch.nn:Identity --mode fold"),
    ],
    "Files to show and to compare": [
        Case("no file to show", lambda folder: None, "show in.pt"),
        Case("a file of no format to show", lambda folder: (folder / "in.gguf").write_text("x") and None, "show in.gguf"),
        Case("text to show", lambda folder: (folder / "in.pt").write_text("not a checkpoint") and None, "show in.pt"),
        Case("no file to compare with", good, "diff in.pt other.pt"),
        Case("a file without a state dict to compare", lambda folder: torch.save(torch.ones(2), folder / "in.pt"),
             "diff in.pt in.pt"),
        Case("a file that repeats one entry",
             lambda folder: torch.save({"a": torch.zeros(1).expand(2**31)}, folder / "in.pt"), "diff in.pt in.pt"),
        Case("a flipped bit in what is compared", _flipped_copy, "diff in.pt other.pt"),
    ],
    "Weights to load": [
        weights("no state dict", {"epoch": 3}),
        weights("a state dict of another model", {"a.weight": torch.ones(2, 2)}),
        weights("a list", [1, 2]),
    ],
    "Arrays and logs": [
        Case("no .npz file", lambda folder: None, "symmetry in.npz"),
        Case("text by the name of an .npz file", lambda folder: (folder / "in.npz").write_text("x") and None,
             "symmetry in.npz"),
        npz("no array X", {"A": np.ones((3, 2))}),
        npz("an array of objects", {"X": np.array([{}, {}], dtype=object)}),
        npz("complex numbers", {"X": np.ones((3, 2), dtype=complex)}),
        npz("pictures of what is no square image", {"X": np.random.default_rng(0).normal(size=(9, 3))},
            " --pictures out.png --resamplings 0"),
        table("text in a column of numbers", "x,y\n1,2\n3,a\n"),
        table("a row cut short", "x,y\n1,2\n3\n"),
        table("a column that is not there", "x,y\n1,2\n3,4\n", " --columns x,z"),
        table("a shape that samples do not have", "x,y\n1,2\n3,4\n", " --shape 3"),
        table("a name for each sample as its class", "x,y,id\n" + "".join(f"{i},{i * i % 7},n{i}\n" for i in range(200)),
              " --labels id"),
        table("a seed of too many digits", "x,y\n1,2\n3,4\n", " --seed 99999999999999999999"),
        Case("samples of no format", lambda folder: (folder / "in.bin").write_text("x") and None, "symmetry in.bin"),
        text_file("a log of something else", "a,b\n1,2\n"),
        text_file("a log with a row cut short", "step,layer,quantity,value\n1,lin,share\n"),
        text_file("a log that lacks the quantity", "step,layer,quantity,value\n1,lin,norm,2\n"),
        Case("a picture of no format",
             lambda folder: (folder / "log.csv").write_text("step,layer,quantity,value\n1,lin,share,2\n") and None,
             "history log.csv -o out.xyz"),
    ],
    "Models and options": [
        Case("a variable of the shell that is not set", good, 'convert "" -o out.pt'),
        Case("a file in the place of a folder", good, "demo --out in.pt"),
        Case("a stream in the place of a file", good, "convert in.pt -o -"),
        Case("a group of too many generators", good, "plan torch.nn:Identity --group SO99999"),
        Case("an error that cannot be", good, "inspect torch.nn:Identity --inputs in.pt --group SO3 --fail-above -1"),
        Case("inputs in another format", good, "inspect torch.nn:Identity --inputs in.pt --group SO3"),
        Case("no factory", good, "convert in.pt -o out.pt --verify torch"),
        Case("a factory that is not there", good, "convert in.pt -o out.pt --verify torch.nn:Nothing"),
        Case("a factory that makes no model", good, "convert in.pt -o out.pt --verify builtins:dict"),
        Case("a model that the output does not fit", good, "convert in.pt -o out.pt --verify torch.nn:Identity"),
        Case("neither an output nor a file to check", good, "convert in.pt"),
        Case("inputs without a model to run", good, "convert in.pt -o out.pt --inputs x.safetensors"),
        Case("a way to move inputs without inputs", good,
             "convert in.pt -o out.pt --verify torch.nn:Identity --irreps x=1o"),
        Case("a file to check that is not there", good, "convert in.pt --check out.pt"),
        Case("a file to check that is still relaxed", good, "convert in.pt --check in.pt"),
        Case("an unknown mode", good, "convert in.pt -o out.pt --mode fit"),
        Case("a negative bound", good, "convert in.pt -o out.pt --max-theta -1"),
        Case("inputs that are no safetensors file", lambda folder: (folder / "x.safetensors").write_text("x") and None,
             "inspect torch.nn:Identity --inputs x.safetensors --group SO3"),
    ],
}  # fmt: skip


def _scripted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as out:
        for name in ("data.pkl", "constants.pkl", "version", "code/model.py"):
            out.writestr(f"in/{name}", b"3\n")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@functools.cache
def said(case: Case) -> tuple[str | None, int, str]:
    """What Python says of a case if it is one for `convert` or `load_weights`; the command's exit code and its words."""
    with _folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.make(folder)
        words, errors = shlex.split(case.command), io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = run(words)
        return _in_python(case, words), code, errors.getvalue().strip().removeprefix("relaxify: ")


def _in_python(case: Case, words: list[str]) -> str | None:
    options = dict(zip(words[4::2], words[5::2], strict=False))
    if case.python is None and (words[0] != "convert" or words[2:3] != ["-o"] or {"--verify", "--inputs"} & options.keys()):
        return None
    if "--relax" in options:
        return None
    bound: dict[str, Any] = {"max_theta": float(options["--max-theta"])} if "--max-theta" in options else {}
    texts = [name for name in ("--key", "--prefix", "--max-shard-size") if name in options]
    bound |= {name[2:].replace("-", "_"): options[name] for name in texts}
    mode: Any = options.get("--mode", "drop")
    if mode not in ("drop", "fold"):
        return None
    try:
        if case.python is not None:
            case.python()
        else:
            force, strip = ("--force" in words), ("--strip-prefix" in words)
            convert(words[1], words[3], force=force, strip_prefix=strip, mode=mode, **bound)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return None


def page() -> str:
    """The whole of docs/errors.md."""
    lines = [
        "# What is said of bad inputs",
        "",
        "Every input that relaxify cannot use gets one sentence that says what is wrong and what to do; the exit code is 2,",
        "or 1 where a check failed that was asked for. No input is changed, nothing is left behind. This page is written by",
        "",
        "    PYTHONPATH=tests .venv/bin/python -m bad_inputs",
        "",
        "and a test compares it. Where Python says the same as the command line, it is not repeated.",
    ]
    for title, cases in CASES.items():
        lines += ["", f"## {title}", "", "| input | command | what is said |", "|---|---|---|"]
        for case in cases:
            python, code, shown = said(case)
            both = shown if python is None or python.endswith(shown) else f"{shown}<br>Python: {python}"
            lines.append(f"| {case.what} | `relaxify {case.command}` | {code}: {_cell(both)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page())
