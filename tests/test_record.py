"""A term's record survives its tensor unchanged, and nothing else that a file can hold there is taken for one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relaxed_states import IRREPS, VECTORS
from torch import Tensor

from relaxify.record import MAX_BYTES, CheckpointError, Record
from relaxify.representations import Block, Layout
from relaxify.sites import Path
from relaxify.spans import Span

names = st.text(st.characters(categories=["L", "N"], include_characters="_.()/ é"), min_size=1, max_size=20)


@st.composite
def records(draw: st.DrawFn) -> Record:
    dimensions = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    multiplicities = st.integers(0, 4)
    layouts: st.SearchStrategy[Layout] = st.sampled_from(["channel_major", "component_major"])
    rep_in, rep_out = (
        tuple(Block(draw(names), draw(multiplicities), d, draw(layouts)) for d in dimensions) for _ in range(2)
    )
    paths, offset = [], draw(st.integers(0, 5))
    for block in draw(st.sets(st.integers(0, len(dimensions) - 1))):
        scale = draw(st.floats(1e-6, 1e6)) * draw(st.sampled_from([1, -1]))
        paths.append(Path("weight", offset, block, block, scale, draw(st.sampled_from(["in_out", "out_in"]))))
        offset += rep_in[block].multiplicity * rep_out[block].multiplicity
    path, *aliases = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return Record(
        path=path,
        aliases=tuple(aliases),
        adapter=draw(names),
        op=draw(names),
        group=draw(names),
        rep_in=rep_in,
        rep_out=rep_out,
        axes_in=tuple(draw(st.lists(st.integers(-5, 5), max_size=3))),
        axes_out=tuple(draw(st.lists(st.integers(-5, 5), max_size=3))),
        weight_keys=draw(st.sampled_from([("weight",), ("up", "down")])),
        paths=tuple(paths),
        base_shapes={"weight": (offset,), "bias": tuple(draw(st.lists(st.integers(0, 9), max_size=3)))},
        unfoldable=draw(st.none() | names),
        updates=draw(st.integers(0, 2**40)),
        functional=draw(st.booleans()),
        groups=1 if paths else max(1, sum(block.dim for block in rep_in)),
    )


def tensor_of(document: Any) -> Tensor:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return torch.tensor(list(text), dtype=torch.uint8)


def document_of(record: Record) -> Any:
    return json.loads(bytes(record.encode().tolist()))


@given(records())
def test_a_record_survives_its_tensor(record: Record) -> None:
    tensor = record.encode()
    assert tensor.dtype == torch.uint8
    assert tensor.ndim == 1
    decoded = Record.decode(tensor)
    assert decoded == record
    assert torch.equal(decoded.encode(), tensor)


def test_the_format_is_as_documented() -> None:
    document = document_of(VECTORS)
    promised = "format path aliases adapter op group rep_in rep_out layout weight_key paths base_shapes unfoldable"
    assert list(document) == [*promised.split(), "updates", "functional", "groups", "symmetriser"]
    assert document["format"] == "relaxify/1"
    assert document["rep_in"] == [{"name": "vector", "multiplicity": 3, "dimension": 3, "layout": "component_major"}]
    assert document["layout"] == {"axes_in": [2, -1], "axes_out": [2, -1]}
    assert document["weight_key"] == ["weight"]


def test_equal_records_have_equal_bytes_whatever_the_order_of_their_shapes() -> None:
    turned = replace(IRREPS, base_shapes=dict(reversed(IRREPS.base_shapes.items())))
    assert torch.equal(turned.encode(), IRREPS.encode())


@pytest.mark.parametrize("version", ["relaxify/2", "relaxify/17"])
def test_a_newer_format_asks_for_an_upgrade(version: str) -> None:
    document = document_of(IRREPS) | {"format": version, "something_new": 1}
    with pytest.raises(CheckpointError, match="written by a newer relaxify; upgrade relaxify"):
        Record.decode(tensor_of(document))


@pytest.mark.parametrize("version", ["other/1", "relaxify/x", "relaxify", "", 1, None, ["relaxify/1"]])
def test_an_extra_state_of_something_else_is_no_record(version: object) -> None:
    with pytest.raises(CheckpointError, match="not a relaxify record"):
        Record.decode(tensor_of(document_of(IRREPS) | {"format": version}))


def edit(*where: Any, to: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        *parents, last = where
        for key in parents:
            document = document[key]
        document[last] = to

    return change


HOSTILE = {
    "missing field": (lambda document: document.pop("group"), "does not have the fields"),
    "extra field": (edit("extra", to=1), "does not have the fields"),
    "path is no text": (edit("path", to=3), "path is not printable text"),
    "path drives a terminal": (edit("path", to="a\x1b[2Jb"), "path is not printable text"),
    "op is endless": (edit("op", to="x" * 5000), "op is not printable text"),
    "alias is no text": (edit("aliases", to=[None]), "aliases is not printable text"),
    "aliases are no list": (edit("aliases", to="abc"), "aliases is not a list"),
    "alias is the path": (edit("aliases", to=["layers.0.lin"]), "one module twice"),
    "multiplicity is negative": (edit("rep_in", 0, "multiplicity", to=-1), "multiplicity is not an integer from 0"),
    "multiplicity is huge": (edit("rep_in", 0, "multiplicity", to=10**30), "multiplicity is not an integer"),
    "multiplicity is a boolean": (edit("rep_in", 0, "multiplicity", to=True), "multiplicity is not an integer"),
    "multiplicity is a float": (edit("rep_in", 0, "multiplicity", to=2.0), "multiplicity is not an integer"),
    "dimension is zero": (edit("rep_in", 0, "dimension", to=0), "dimension is not an integer from 1"),
    "layout is unknown": (edit("rep_in", 0, "layout", to="diagonal"), "layout is none of channel_major"),
    "layout is unhashable": (edit("rep_in", 0, "layout", to=[]), "layout is none of"),
    "block is a list": (edit("rep_in", 0, to=["0e", 2, 1]), "does not have the fields"),
    "axis is a float": (edit("layout", "axes_in", to=[0.5]), "axes_in is not an integer"),
    "axes are missing": (edit("layout", to={}), "does not have the fields axes_in"),
    "weight key is unknown": (edit("weight_key", to=["bias"]), "weight keys"),
    "weight key is one factor": (edit("weight_key", to=["up"]), "weight keys"),
    "block_in is out of range": (edit("paths", 0, "block_in", to=3), "do not both exist"),
    "block_out is negative": (edit("paths", 0, "block_out", to=-1), "block_out is not an integer from 0"),
    "blocks differ in dimension": (edit("paths", 0, "block_in", to=0), "whose dimensions differ"),
    "scale is zero": (edit("paths", 0, "scale", to=0), "scale 0"),
    "scale underflows": (edit("paths", 0, "scale", to=1e-200), "scale 1e-200"),
    "scale overflows": (edit("paths", 0, "scale", to=1e200), "scale is not a number"),
    "scale is text": (edit("paths", 0, "scale", to="1"), "scale is not a number"),
    "offset is out of range": (edit("paths", 0, "offset", to=21), "ends at entry 27 of parameter 'weight', which has 26"),
    "paths overlap": (edit("paths", 1, "offset", to=5), "share entry 5"),
    "order is unknown": (edit("paths", 0, "order", to="up_down"), "order is none of in_out"),
    "parameter is unknown": (edit("paths", 0, "parameter", to="kernel"), "whose shape is not given"),
    "parameter is a term's": (edit("base_shapes", "relaxation.weight", to=[1]), "belongs to a term"),
    "shape is negative": (edit("base_shapes", "weight", to=[-26]), "base_shapes is not an integer from 0"),
    "shape is a number": (edit("base_shapes", "weight", to=26), "base_shapes is not a list"),
    "shapes are a list": (edit("base_shapes", to=[]), "base_shapes is not an object"),
    "functional is a number": (edit("functional", to=1), "functional is neither true nor false"),
    "updates are negative": (edit("updates", to=-1), "updates is not an integer from 0"),
    "groups are none": (edit("groups", to=0), "groups is not an integer from 1"),
    "groups have paths": (edit("groups", to=2), "2 groups, which do not fit"),
    "symmetriser is not a list": (edit("symmetriser", to=1), "symmetriser is not a list"),
    "symmetriser is of a matrix": (edit("symmetriser", to=[[1.0]]), "not of the taps of a weight of shape"),
    "symmetriser is infinite": (edit("symmetriser", to=[[1e300]]), "symmetriser is not a number"),
    "unfoldable is a number": (edit("unfoldable", to=1), "unfoldable is not printable text"),
}


SPANNED = replace(
    VECTORS, paths=(), base_shapes={"weight": (5, 3, 2)},
    spans=(Span("weight", 0, 6, 2, ((0, 0, 1.0),)), Span("weight", 1, 6, 2, ((1, 1, 0.5), (2, 2, 0.5)))),
)  # fmt: skip


def test_a_record_of_a_basis_survives_its_tensor_and_folds() -> None:
    assert Record.decode(SPANNED.encode()) == SPANNED
    assert SPANNED.is_foldable
    assert SPANNED.parameters == ("weight",)
    assert "spans" not in document_of(VECTORS)


HOSTILE_SPANS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a row too many": (edit("spans", 1, "entries", 0, 0, to=3), "its spans are of larger matrices"),
    "a column too many": (edit("spans", 1, "entries", 0, 1, to=3), "its spans are of larger matrices"),
    "past the parameter": (edit("spans", 1, "offset", to=2), "more coefficients than parameter 'weight'"),
    "of no parameter": (edit("spans", 1, "parameter", to="other"), "more coefficients than parameter 'other'"),
    "a negative stride": (edit("spans", 0, "stride_in", to=-2), "stride_in is not an integer from 0"),
    "endless": (edit("rep_out", 0, "multiplicity", to=2**40), "more coefficients than parameter 'weight'"),
    "no value": (edit("spans", 0, "entries", 0, to=[0, 0]), "entries are not row, column and value"),
    "paths too": (edit("paths", to=document_of(VECTORS)["paths"]), "its spans are not between one block and another"),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE_SPANS.values(), ids=HOSTILE_SPANS)
def test_every_field_of_a_basis_is_checked(change: Callable[[Any], None], reason: str) -> None:
    document = document_of(SPANNED)
    change(document)
    with pytest.raises(CheckpointError, match=reason):
        Record.decode(tensor_of(document))


def test_a_record_of_before_convolutions_is_read() -> None:
    document = document_of(IRREPS)
    del document["groups"], document["symmetriser"]
    assert Record.decode(tensor_of(document)) == IRREPS


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_every_field_is_checked(change: Callable[[Any], None], reason: str) -> None:
    document = document_of(IRREPS)
    change(document)
    with pytest.raises(CheckpointError, match=reason) as caught:
        Record.decode(tensor_of(document))
    assert str(caught.value).endswith("save the relaxed model again.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        bytes(IRREPS.encode().tolist()).replace(b'"op":', b'"op":"hidden","op":'),
        bytes(IRREPS.encode().tolist()).replace(b'"scale":0.5', b'"scale":NaN'),
        bytes(IRREPS.encode().tolist()).replace(b'"scale":0.5', b'"scale":1e999'),
        bytes(IRREPS.encode().tolist()).replace(b'"offset":0', b'"offset":' + b"9" * 10_000),
        bytes(IRREPS.encode().tolist())[:-1],
    ],
    ids=lambda text: repr(text[:20]),
)
def test_text_that_is_no_record(text: bytes) -> None:
    with pytest.raises(CheckpointError):
        Record.decode(tensor_of(text))


@pytest.mark.parametrize(
    "state",
    [
        None,
        "text",
        IRREPS.encode().to(torch.int64),
        IRREPS.encode()[None],
        IRREPS.encode().to("meta"),
        IRREPS.encode().to_sparse(),
        torch.zeros(1, dtype=torch.uint8).expand(MAX_BYTES + 1),
    ],
    ids=["none", "text", "int64", "2d", "meta", "sparse", "endless"],
)
def test_tensors_that_are_no_record(state: object) -> None:
    with pytest.raises(CheckpointError, match="invalid"):
        Record.decode(state)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(document_of(IRREPS))), json_values)
def test_no_value_of_any_field_raises_anything_else(name: str, value: object) -> None:
    with contextlib.suppress(CheckpointError):
        Record.decode(tensor_of(document_of(IRREPS) | {name: value}))


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_no_damage_raises_anything_else(damage: bytes, at: int) -> None:
    text = bytes(IRREPS.encode().tolist())
    with contextlib.suppress(CheckpointError):
        Record.decode(tensor_of(text[:at] + damage + text[at + len(damage) :]))


def test_what_cannot_be_read_back_is_not_written() -> None:
    with pytest.raises(CheckpointError, match="more than"):
        replace(IRREPS, aliases=tuple(f"{'x' * 4000}{i}" for i in range(MAX_BYTES // 4000))).encode()
