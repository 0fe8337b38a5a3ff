"""A saved state is loaded whole, or refused in one sentence and nothing changes: of a model, and of each controller."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from e3nn import o3
from files import through_file
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import randomise_terms, unchecked, vn_net
from relaxed_states import assert_same
from torch import Tensor, nn

from relaxify import ACE, RECM, RPP, Constant, Cosine, RelaxConfig, Triangle, project, relaxify, summary, thetas
from relaxify.record import Record
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

CONTROLLERS: dict[str, Callable[[nn.Module], Any]] = {
    "constant": Constant,
    "triangle": lambda model: Triangle(model, 9),
    "cosine": lambda model: Cosine(model, 9),
    "ace": lambda model: ACE(model, 9),
    "recm": lambda model: RECM(model, 9),
    "rpp": lambda model: RPP(model, 1e-2, 1e-5),
}


def relaxed_net() -> nn.Module:
    torch.manual_seed(0)
    model = relaxify(vn_net()[0], "SO(3)", overrides={"head": RelaxConfig(rank=1)})
    randomise_terms(model)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return relaxed_net()


@pytest.fixture(scope="module")
def other() -> dict[str, Tensor]:
    """The state of another training of the same model."""
    torch.manual_seed(1)
    model = relaxify(vn_net()[0], "SO(3)", overrides={"head": RelaxConfig(rank=1)})
    randomise_terms(model)
    return model.state_dict()


def without(state: dict[str, Any], key: str, _: int) -> None:
    del state[key]


def of_another_shape(state: dict[str, Any], key: str, _: int) -> None:
    state[key] = torch.zeros(2, 3, 5, 7)


def of_no_tensor(state: dict[str, Any], key: str, _: int) -> None:
    state[key] = "nothing"


def under_another_key(state: dict[str, Any], key: str, _: int) -> None:
    state[f"{key}.more"] = state.pop(key)


def with_another_byte(state: dict[str, Any], key: str, number: int) -> None:
    flat = state[key].clone().flatten().view(torch.uint8)
    if len(flat):
        flat[number % len(flat)] ^= 1 + number % 255
        state[key] = flat.view(state[key].dtype).view(state[key].shape)


def cut_short(state: dict[str, Any], key: str, number: int) -> None:
    state[key] = state[key].flatten()[: -1 - number % 9]


def of_another_group(state: dict[str, Any], key: str, _: int) -> None:
    """Each record, one after the other, is that of another kind of term."""
    records = [name for name in state if name.endswith("_extra_state")]
    document = json.loads(bytes(state[records[-1]].tolist()))
    document["group"] = "O(3)"
    state[records[-1]] = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)


CORRUPTIONS = [without, of_another_shape, of_no_tensor, under_another_key, with_another_byte, cut_short, of_another_group]


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")


@given(st.sampled_from(CORRUPTIONS), st.integers(0, 2**16), st.integers(0, 2**16), st.booleans())
@settings(max_examples=120)
def test_a_model_loads_a_state_or_stays_as_it_was(
    model: nn.Module, other: dict[str, Tensor], corrupt: Callable[..., None], place: int, number: int, assign: bool
) -> None:
    # what is assigned belongs to the model from then on
    state = {key: value.clone() for key, value in other.items()}
    # the records, of which there are few, as often as all else
    keys = [key for key in state if key.endswith("_extra_state") or number % 2]
    corrupt(state, keys[place % len(keys)], number)
    before = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state, assign=assign)
    except ValueError as error:
        assert_one_sentence(error)
        assert_same(model.state_dict(), before)
    except RuntimeError:
        # torch's own list of what does not fit
        assert_same(model.state_dict(), before)
    else:
        model.load_state_dict(before)


def test_a_refused_state_changes_nothing_of_a_model_that_is_a_part_of_another(other: dict[str, Tensor]) -> None:
    whole = nn.ModuleDict({"net": relaxed_net()})
    before, state = copy.deepcopy(whole.state_dict()), dict(other)
    of_another_group(state, "", 0)
    with pytest.raises(ValueError, match="has group O\\(3\\) but the model's has"):
        whole.load_state_dict({f"net.{key}": value for key, value in state.items()})
    assert_same(whole.state_dict(), before)
    whole.load_state_dict({f"net.{key}": value for key, value in other.items()})
    assert_same(whole.net.state_dict(), other)


def test_what_guards_a_model_is_copied_and_pickled_with_it_and_is_gone_with_the_terms(other: dict[str, Tensor]) -> None:
    model, file = relaxed_net(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    before = copy.deepcopy(model.state_dict())
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        twin.load_state_dict(other)
        assert_same(twin.state_dict(), other)
        assert_same(model.state_dict(), before)
    clean, plain = project(model), vn_net()[0]
    assert vars(clean).keys() == vars(plain).keys()
    assert not clean._load_state_dict_pre_hooks
    project(model, inplace=True)
    assert vars(model).keys() == vars(plain).keys()
    assert not model._load_state_dict_pre_hooks


def test_a_models_own_way_of_loading_is_called_and_is_back_afterwards(other: dict[str, Tensor]) -> None:
    loaded = []
    model = vn_net()[0]

    def load(state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        loaded.append(len(state))
        return nn.Module.load_state_dict(model, state, strict, assign)

    model.load_state_dict = load
    relaxify(model, "SO(3)", overrides={"head": RelaxConfig(rank=1)})
    model.load_state_dict(other)
    assert loaded == [len(other)]
    project(model, inplace=True)
    assert model.load_state_dict is load


NUMBERS = st.one_of(st.integers(-3, 20), st.floats(), st.text(max_size=3), st.none(), st.booleans(), st.just(1e300))
LEVELS = st.dictionaries(st.sampled_from(["head", "conv.map_to_feat", "x"]), NUMBERS)
VALUES = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=2), LEVELS)


@pytest.mark.parametrize("kind", CONTROLLERS)
@given(data=st.data())
def test_a_controller_loads_a_state_or_stays_as_it_was(model: nn.Module, kind: str, data: st.DataObject) -> None:
    theta = CONTROLLERS[kind](model)
    for _ in range(2):
        theta.step()
    state = copy.deepcopy(theta.state_dict())
    for name in data.draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=3)):
        if isinstance(state.get(name), dict) and state[name] and data.draw(st.booleans()):
            state[name][data.draw(st.sampled_from(sorted(state[name])))] = data.draw(NUMBERS)
        else:
            state[name] = data.draw(VALUES)
    before = copy.deepcopy(theta.state_dict()), thetas(model)
    try:
        # in tests warnings are errors: of another length, until or peak
        theta.load_state_dict(state)
    except PitfallWarning as warning:
        assert_one_sentence(warning)
        assert (theta.state_dict(), thetas(model)) == before
        with pytest.warns(PitfallWarning, match="was made with"):
            theta.load_state_dict(state)
        assert theta.state_dict()["steps"] == state["steps"]
    except ValueError as error:
        assert_one_sentence(error)
        assert (theta.state_dict(), thetas(model)) == before
    else:
        assert theta.state_dict() == pytest.approx(state) if kind == "rpp" else theta.state_dict()["steps"] == state["steps"]
        theta.step()


@pytest.mark.parametrize("state", [None, 3, [], "Triangle"])
def test_what_is_no_state_is_refused(model: nn.Module, state: Any) -> None:
    theta = Triangle(model, 9)
    with unchecked(), pytest.raises(ValueError, match="pass what state_dict"):
        theta.load_state_dict(state)


def attributed(values: Tensor | None = None) -> nn.Module:
    model = relaxify(o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e", "2x0e+2x1o"), "O(3)").train()
    if values is not None:
        model(torch.randn(len(values), 8), values[:, None])
    return model


def reason(model: nn.Module) -> str | None:
    (layer,) = summary(model).layers.values()
    return layer.foldable


@pytest.mark.parametrize("values", [torch.linspace(0.1, 2, 8), torch.full((8,), 0.7), torch.zeros(8), None])
def test_what_the_scalar_attribute_was_before_a_checkpoint_is_not_forgotten(values: Tensor | None) -> None:
    model = attributed(values)
    resumed = attributed()
    resumed.load_state_dict(through_file(model.state_dict()))
    assert reason(resumed) == reason(model)
    assert_same(resumed.state_dict(), model.state_dict())
    for net in (model, resumed):
        net(torch.randn(4, 8), torch.ones(4, 1))
    assert reason(resumed) == reason(model)


@pytest.mark.parametrize(("values", "foldable"), [(torch.linspace(0.1, 2, 8), False), (torch.full((8,), 0.7), True)])
def test_of_a_checkpoint_that_does_not_say_so_it_is_told_from_what_could_be_folded(values: Tensor, foldable: bool) -> None:
    """Records from before there was a range."""
    model, resumed = attributed(values), attributed()
    state = model.state_dict()
    document = json.loads(bytes(state["relaxation._extra_state"].tolist()))
    del document["attribute"]
    state["relaxation._extra_state"] = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
    resumed.load_state_dict(state)
    resumed(torch.randn(8, 8), torch.full((8, 1), 0.7))
    assert (reason(resumed) is None) == foldable


def test_a_record_without_an_attribute_is_as_it_always_was() -> None:
    (term,) = terms_of(relaxify(o3.Linear("1o", "1o"), "O(3)")).values()
    document = json.loads(bytes(term.get_extra_state().tolist()))
    assert "attribute" not in document
    assert Record.decode(term.get_extra_state()).attribute is None
