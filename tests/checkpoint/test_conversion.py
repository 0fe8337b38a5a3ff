"""drop takes away the terms' keys and nothing else; fold adds the nearest map that the layer can express."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from e3nn import o3
from hypothesis import given
from hypothesis import strategies as st
from relaxed_states import IRREPS, VECTORS, Relaxed, assert_same, digest, load, relaxed_layer, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relaxify import project, relaxify
from relaxify.checkpoint import ThetaError, convert
from relaxify.record import CheckpointError
from relaxify.representations import Block
from relaxify.sites import Path as FoldPath

FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

names = st.from_regex(r"[a-z_é]{1,6}(\.[a-z0-9]{1,4}){0,2}", fullmatch=True).filter(lambda name: "relaxation" not in name)


@st.composite
def others(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors of all dtypes and shapes, 0-d and empty ones too, that have nothing to do with terms."""
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return {
        f"other.{name}": torch.randint(0, 2, draw(shapes)).to(draw(st.sampled_from(DTYPES)))
        for name in draw(st.lists(names, max_size=5, unique=True))
    }


def layers() -> st.SearchStrategy[Relaxed]:
    records, ranks = st.sampled_from([IRREPS, VECTORS]), st.sampled_from([None, 0, 1, 2])
    dtypes = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
    return st.builds(relaxed_layer, records, rank=ranks, theta=st.floats(-2, 2), seed=st.integers(0, 99), dtype=dtypes)


@FORMATS
@given(layers(), others(), st.sampled_from(["", "module.", "_orig_mod.", "model.net.", "a._orig_mod.b."]), st.booleans())
def test_drop_removes_exactly_the_terms(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, layer: Relaxed, rest: dict[str, Tensor], prefix: str, first: bool
) -> None:
    folder = tmp_path_factory.mktemp("drop")
    relaxed, plain = layer.state(f"{prefix}layers.0.lin."), layer.plain(f"{prefix}layers.0.lin.")
    state, expected = ({**rest, **relaxed}, {**rest, **plain}) if first else ({**relaxed, **rest}, {**plain, **rest})
    source, target = save(state, folder / f"in{suffix}"), folder / f"out{suffix}"
    before = digest(source)
    conversion = convert(source, target)
    assert digest(source) == before
    assert_same(load(target), expected)
    if suffix == ".pt":
        assert list(load(target)) == list(expected)
    (report,) = conversion.states
    assert set(report.kept) == set(expected)
    assert set(report.removed) == set(state) - set(expected)
    weights = sum(value.numel() for name, value in layer.term.items() if name != "theta")
    assert report.parameters_after == sum(value.numel() for value in expected.values())
    assert report.parameters_before == report.parameters_after + weights
    assert [term.path for term in report.terms] == [f"{prefix}layers.0.lin"]
    assert report.terms[0].theta == float(layer.term["theta"])
    assert math.isclose(report.terms[0].norm, float(layer.relaxation.norm()), rel_tol=1e-6, abs_tol=1e-12)


@given(layers(), others(), st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=3))
def test_a_streamed_file_is_the_one_that_safetensors_writes(
    tmp_path_factory: pytest.TempPathFactory, layer: Relaxed, rest: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    """Byte for byte: order, alignment, header and metadata included."""
    folder = tmp_path_factory.mktemp("stream")
    source, expected = folder / "in.safetensors", folder / "expected.safetensors"
    safetensors.torch.save_file({**rest, **layer.state("lin.")}, source, metadata=metadata)
    safetensors.torch.save_file({**rest, **layer.plain("lin.")}, expected, metadata=metadata)
    convert(source, folder / "out.safetensors")
    found = (folder / "out.safetensors").read_bytes()
    if metadata is None or len(metadata) == 1:  # the library writes several entries in random order
        assert found == expected.read_bytes()
    with safetensors.safe_open(folder / "out.safetensors", "pt") as file:
        assert file.metadata() == metadata


@FORMATS
@given(layers())
def test_fold_adds_the_nearest_map_the_layer_expresses(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, layer: Relaxed
) -> None:
    folder = tmp_path_factory.mktemp("fold")
    source = save({"first": torch.ones(3), **layer.state("layers.0.lin.")}, folder / f"in{suffix}")
    conversion = convert(source, folder / f"out{suffix}", mode="fold")
    found, expected = load(folder / f"out{suffix}"), layer.folded()
    tolerance = TOLERANCE[layer.base["weight"].dtype]
    for name, value in expected.items():
        assert found[f"layers.0.lin.{name}"].dtype == layer.base[name].dtype
        torch.testing.assert_close(found[f"layers.0.lin.{name}"].double(), value, atol=tolerance, rtol=tolerance)
    (term,) = conversion.states[0].terms
    share = layer.share()
    assert (term.folded is None) == (share is None)
    if term.folded is not None and share is not None:
        assert math.isclose(term.folded, share, rel_tol=1e-5, abs_tol=1e-12)


@FORMATS
def test_what_is_equivariant_is_folded_whole_and_what_is_not_is_not(suffix: str, tmp_path: Path) -> None:
    layer = relaxed_layer(VECTORS, theta=1.0)
    scalar = torch.kron(torch.eye(3), torch.arange(15.0).view(5, 3))
    skew = torch.kron(torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]]), torch.ones(5, 3))
    for weight, share, expected in ((scalar, 1.0, torch.arange(15.0).view(5, 3)), (skew, 0.0, torch.zeros(5, 3))):
        term = {**layer.term, "weight": weight}
        source = save(replace(layer, term=term).state(), tmp_path / f"in{suffix}")
        conversion = convert(source, tmp_path / f"out{suffix}", mode="fold", force=True)
        folded = conversion.states[0].terms[0].folded
        assert folded is not None
        assert math.isclose(folded, share, abs_tol=1e-12)
        torch.testing.assert_close(load(tmp_path / f"out{suffix}")["weight"], layer.base["weight"] + expected)


@FORMATS
def test_a_layer_that_cannot_take_it_is_dropped_with_its_reason(suffix: str, tmp_path: Path) -> None:
    silent = relaxed_layer(replace(IRREPS, paths=(), path="b"))
    told = relaxed_layer(replace(IRREPS, unfoldable="its attribute varies", path="a"))
    state = {**told.state("a."), **silent.state("b.")}
    conversion = convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", mode="fold")
    assert_same(load(tmp_path / f"out{suffix}"), {**told.plain("a."), **silent.plain("b.")})
    notes = {term.path: term.note for term in conversion.states[0].terms}
    assert notes == {"a": "dropped: its attribute varies", "b": "dropped: its layer's parameters express none of it"}


def test_a_site_may_be_the_model_itself(tmp_path: Path) -> None:
    layer = relaxed_layer(replace(IRREPS, path=""))
    convert(save(layer.state(), tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert_same(load(tmp_path / "out.safetensors"), layer.plain())


def test_a_layer_with_two_parameters_gets_both(tmp_path: Path) -> None:
    block = Block("0e", 2, 1)
    paths = (FoldPath("first", 1, 0, 0), FoldPath("sub.second", 0, 1, 0, 2.0))
    record = replace(
        IRREPS, rep_in=(block, block), rep_out=(block,), paths=paths, base_shapes={"first": (5,), "sub.second": (2, 2)}
    )
    layer = relaxed_layer(record)
    for suffix in (".safetensors", ".pt"):
        convert(save(layer.state("x."), tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", mode="fold")
        for name, value in layer.folded().items():
            torch.testing.assert_close(load(tmp_path / f"out{suffix}")[f"x.{name}"].double(), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize(("given", "wanted"), [(".safetensors", ".pt"), (".pt", ".safetensors"), (".ckpt", ".bin")])
def test_formats_can_be_changed(given: str, wanted: str, mode: str, tmp_path: Path) -> None:
    layer, buffers = relaxed_layer(), {"steps": torch.tensor(3), "empty": torch.zeros(0, 2), "half": torch.ones(3).half()}
    source = save({**layer.state("lin."), **buffers}, tmp_path / f"in{given}")
    convert(source, tmp_path / f"out{wanted}", mode=mode)  # type: ignore[arg-type]
    same = save({**layer.state("lin."), **buffers}, tmp_path / f"same{wanted}")
    convert(same, tmp_path / f"expected{wanted}", mode=mode)  # type: ignore[arg-type]
    assert_same(load(tmp_path / f"out{wanted}"), load(tmp_path / f"expected{wanted}"))


@FORMATS
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_module.", "model.", "module._orig_mod.", "_forward_module.model."]
)
def test_wrappers_are_kept_or_stripped(suffix: str, prefix: str, tmp_path: Path) -> None:
    layer = relaxed_layer()
    source = save({f"{prefix}scale": torch.ones(2), **layer.state(f"{prefix}layers.0.lin.")}, tmp_path / f"in{suffix}")
    for strip, ahead in ((False, prefix), (True, "")):
        target = tmp_path / f"out{strip}{suffix}"
        convert(source, target, strip_prefix=strip)
        assert_same(load(target), {f"{ahead}scale": torch.ones(2), **layer.plain(f"{ahead}layers.0.lin.")})
    convert(source, tmp_path / f"fold{suffix}", strip_prefix=True, mode="fold")
    torch.testing.assert_close(
        load(tmp_path / f"fold{suffix}")["layers.0.lin.weight"].double(), layer.folded()["weight"], atol=1e-5, rtol=1e-5
    )


@FORMATS
@pytest.mark.parametrize(
    ("before", "within"),
    [
        ("net.", "layers.0."),
        ("module.net.", "layers.0."),
        ("wrapped.inner._orig_mod.", "layers.0."),
        ("module._orig_mod.", "layers._checkpoint_wrapped_module.0._fsdp_wrapped_module."),
        ("_fsdp_wrapped_module.", "layers.0._fsdp_wrapped_module._orig_mod."),
        ("", "layers._orig_mod.0."),
        ("module.model.", "layers.0."),
    ],
)
def test_a_wrapper_is_what_is_before_the_name_in_the_record(suffix: str, before: str, within: str, tmp_path: Path) -> None:
    """Whatever it is called, and what wrappers put between."""
    layer, own = relaxed_layer(), {"scale": torch.ones(2), "module.net.weight": torch.ones(3)}
    state = {f"{before}{key}": value for key, value in own.items()} | layer.state(f"{before}{within}lin.")
    convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", strip_prefix=True)
    assert_same(load(tmp_path / f"out{suffix}"), {**own, **layer.plain("layers.0.lin.")})


@FORMATS
def test_a_prefix_that_some_keys_lack_is_asked_for(suffix: str, tmp_path: Path) -> None:
    """Whether `model.` is a wrapper's or a part of the model cannot be told, and nothing is lost without a word."""
    layer = relaxed_layer()
    source = save(
        {"model.x": torch.ones(1), "loss.weight": torch.ones(1), **layer.state("model.lin.")}, tmp_path / f"in{suffix}"
    )
    target = tmp_path / f"out{suffix}"
    with pytest.raises(
        CheckpointError, match=r"'loss\.weight' does not, .* give the prefix 'model\.' to keep only what is below"
    ):
        convert(source, target, strip_prefix=True)
    assert not target.exists()
    conversion = convert(source, target, prefix="model.")
    assert conversion.left_out == ("loss.weight",)
    assert_same(load(target), {"x": torch.ones(1), **layer.plain("lin.")})


@FORMATS
@pytest.mark.parametrize("option", [{"strip_prefix": True}, {"prefix": "net."}, {"prefix": "li"}])
def test_an_option_that_changes_no_key_fails(suffix: str, option: dict[str, Any], tmp_path: Path) -> None:
    source = save(relaxed_layer().state("lin."), tmp_path / f"in{suffix}")
    with pytest.raises(CheckpointError, match=r"none of its keys begins with .* \(the first is 'lin\."):
        convert(source, tmp_path / f"out{suffix}", **option)


@FORMATS
def test_wrappers_within_are_stripped(suffix: str, tmp_path: Path) -> None:
    layer = relaxed_layer()
    source = save(layer.state("_fsdp_wrapped_module.net._checkpoint_wrapped_module.lin."), tmp_path / f"in{suffix}")
    convert(source, tmp_path / f"out{suffix}", strip_prefix=True)
    assert_same(load(tmp_path / f"out{suffix}"), layer.plain("net.lin."))
    twice = save(
        {**layer.state("module.net._orig_mod.lin."), "module.net.lin.weight": torch.ones(1)}, tmp_path / f"twice{suffix}"
    )
    with pytest.raises(CheckpointError, match=r"two of its keys would be 'net\.lin\.weight'"):
        convert(twice, tmp_path / f"out{suffix}", strip_prefix=True, force=True)


def test_an_average_of_weights(tmp_path: Path) -> None:
    model = relaxify(nn.Sequential(o3.Linear("4x1o", "4x1o")), "O(3)")
    average = AveragedModel(model)
    torch.save(average.state_dict(), tmp_path / "in.pt")
    conversion = convert(tmp_path / "in.pt", tmp_path / "out.pt", strip_prefix=True)
    assert conversion.left_out == ("n_averaged",)
    project(model).load_state_dict(torch.load(tmp_path / "out.pt"))


def test_a_module_of_the_model_may_be_called_relaxation(tmp_path: Path) -> None:
    """It has no record, and its keys are not a term's."""
    layer = relaxed_layer()
    own = {"relaxation.weight": torch.ones(2, 2), "relaxation.bias": torch.ones(2), "a.relaxation.time": torch.ones(1)}
    convert(save({**own, **layer.state("lin.")}, tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert_same(load(tmp_path / "out.safetensors"), {**own, **layer.plain("lin.")})


@FORMATS
@pytest.mark.parametrize("theta", [0.7, -0.7, float("nan")])
def test_theta_above_the_bound_stops_it(suffix: str, theta: float, tmp_path: Path) -> None:
    state = {**relaxed_layer(theta=0.0).state("a."), **relaxed_layer(theta=theta).state("b.")}
    source = save(state, tmp_path / f"in{suffix}")
    with pytest.raises(ThetaError, match=r"b has theta (-?0\.7|nan), and 1 of 2 terms are above the allowed 0\.5"):
        convert(source, tmp_path / f"out{suffix}", max_theta=0.5)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    if not math.isnan(theta):
        convert(source, tmp_path / f"out{suffix}", max_theta=0.7000001)


def test_theta_zero_passes_a_bound_of_zero(tmp_path: Path) -> None:
    source = save(relaxed_layer(theta=0.0).state(), tmp_path / "in.pt")
    assert convert(source, tmp_path / "out.pt", max_theta=0.0, mode="fold").states[0].terms[0].folded is None


def test_nan_in_a_term_is_dropped_but_not_folded(tmp_path: Path) -> None:
    layer = relaxed_layer()
    layer.term["weight"][0, 0] = float("nan")
    source = save(layer.state("lin."), tmp_path / "in.safetensors")
    convert(source, tmp_path / "out.safetensors")
    assert_same(load(tmp_path / "out.safetensors"), layer.plain("lin."))
    with pytest.raises(CheckpointError, match=r"lin: its term has NaN or infinite entries.*drop it"):
        convert(source, tmp_path / "folded.safetensors", mode="fold")
    assert not (tmp_path / "folded.safetensors").exists()


def test_folding_never_overflows_silently(tmp_path: Path) -> None:
    layer = relaxed_layer(VECTORS, theta=1.0, dtype=torch.float16)
    layer.term["weight"].fill_(0).fill_diagonal_(60000)
    layer.base["weight"].fill_(60000)
    source = save(layer.state("lin."), tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=r"lin\.weight is not finite in torch\.float16 once folded"):
        convert(source, tmp_path / "out.pt", mode="fold")


def test_folding_into_integers_is_refused(tmp_path: Path) -> None:
    layer = relaxed_layer()
    base = {**layer.base, "weight": torch.ones(26, dtype=torch.int8)}
    source = save(Relaxed(layer.record, base, layer.term).state("lin."), tmp_path / "in.safetensors")
    with pytest.raises(CheckpointError, match=r"lin\.weight holds no floating-point values but torch\.int8"):
        convert(source, tmp_path / "out.safetensors", mode="fold")
    convert(source, tmp_path / "out.safetensors")


def test_the_rank_of_a_term_makes_no_difference(tmp_path: Path) -> None:
    low = relaxed_layer(rank=2)
    dense = Relaxed(IRREPS, low.base, {"weight": low.term["up"] @ low.term["down"], "theta": low.term["theta"]})
    results = []
    for name, layer in (("low", low), ("dense", dense)):
        target = tmp_path / f"{name}.out.safetensors"
        convert(save(layer.state(), tmp_path / f"{name}.safetensors"), target, mode="fold")
        results.append(load(target)["weight"])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
