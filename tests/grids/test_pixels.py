"""Groups that act on a grid: pixels move as g says, channels as is measured, and shapes that could mean two things ask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.images import SOUND, FlattenNet, GroupNet

from relaxify import Group, Representation, inspect, plan, relaxify
from relaxify.evidence.runs import Observer
from relaxify.grids.pixels import MovePixels, Pixels, acts_on_grid, on_pixels, order
from relaxify.grids.taps import grid_action
from relaxify.verdicts.default_action import default_action

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NAMES = ["C(2)", "C(4)", "D(1)", "D(2)", "D(4)", "T(2)"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("pixels", "shape"),
    [(Pixels(-2, 4), (2, 3, 4, 4)), (Pixels(-3, 4), (2, 4, 4, 3)), (Pixels(-1, 4, flat=True), (2, 48))],
)
@given(seed=st.integers(0, 99))
def test_pixels_move_by_a_representation(name: str, pixels: Pixels, shape: tuple[int, ...], seed: int) -> None:
    group, generator = on_pixels(Group.parse(name)), torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=generator)
    vector = Representation.defining(group)
    g, h = (vector.rho(group.random(generator)) for _ in range(2))

    def move(matrix: Tensor, x: Tensor) -> Tensor:
        return pixels.move(matrix, x, 4)

    assert torch.equal(move(g, move(h, value)), move(g @ h, value))
    assert torch.equal(move(torch.linalg.inv(g), move(g, value)), value)
    assert torch.equal(move(torch.eye(group.dim), value), value)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    """r = (x, y), y up: g maps the first axis to the second, so what lay to the right lies above."""
    image = torch.zeros(5, 5)
    image[2, 4] = 1
    moved = Pixels(-2, 5).move(Group.parse("C(4)").finite[0], image, 5)
    assert moved[0, 2] == 1
    right, up = on_pixels(Group.parse("T(2)")).finite
    assert Pixels(-2, 5).move(right, image, 5)[2, 0] == 1
    assert Pixels(-2, 5).move(up, image, 5)[1, 4] == 1


def test_a_field_of_vectors_turns_its_vectors_with_its_pixels() -> None:
    """A wind to the right at the right border becomes one upwards at the upper border; the flip of y turns it round."""
    wind = torch.zeros(1, 2, 3, 3)
    wind[0, 0, 1, 2] = 1
    turned, flipped = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    turned[0, 1, 0, 1], flipped[0, 1, 2, 1] = 1, -1
    quarter, flip = Group.parse("D(4)").finite
    action = MovePixels({"input.0": 1})
    torch.testing.assert_close(action(quarter, (wind,))[0], turned)
    torch.testing.assert_close(action(flip, (turned,))[0], flipped)


@pytest.mark.parametrize("name", ["C(4)", "D(4)"])
@pytest.mark.parametrize("size", [4, 5])
def test_taps_of_kernels_turn_as_pixels_do(name: str, size: int) -> None:
    image = torch.randn(size, size, dtype=torch.float64)
    for g in Group.parse(name).finite:
        taps = grid_action(g, (size, size)) @ image.flatten()
        torch.testing.assert_close(taps.reshape(size, size), Pixels(-2, size).move(g, image, size))


def test_a_map_that_continues_the_image_is_shifted_as_its_continuation() -> None:
    shift = on_pixels(Group.parse("T(2)")).finite[0]
    padded = nn.functional.pad(X, (1, 1, 1, 1), mode="circular")
    moved = nn.functional.pad(Pixels(-2, 8).move(shift, X, 8), (1, 1, 1, 1), mode="circular")
    assert torch.equal(Pixels(-2, 10).move(shift, padded, 8), moved)


def test_pixels_do_not_move_between_pixels() -> None:
    with pytest.raises(ValueError, match="a turn by 45 degrees moves pixels between pixels; name a group of quarter turns"):
        inspect(nn.AvgPool2d(3), "C(8)", torch.randn(1, 1, 9, 9), input_action=MovePixels())


def test_which_groups_act_on_a_grid() -> None:
    assert [name for name in (*NAMES, "C(3)", "C(8)", "SO(2)", "O(2)", "SO(3)") if acts_on_grid(Group.parse(name))] == NAMES
    assert [order(Group.parse(name)) for name in NAMES] == [2, 4, 2, 4, 8, 0]


def test_square_images_are_moved_and_ambiguous_shapes_ask() -> None:
    group = Group.parse("C(4)")
    assert isinstance(default_action(group, (X,)), MovePixels)
    with pytest.raises(ValueError, match=r"whether C\(4\) moves its pixels or acts on its axis of size 2 is ambiguous"):
        default_action(group, (X[:2],))
    with pytest.raises(ValueError, match=r"\(4, 1, 8, 5\), and C\(4\) moves square images"):
        default_action(group, (X[..., :5],))
    with pytest.raises(ValueError, match=r"C\(3\) moves the pixels of images between pixels; try 'C\(4\)' or 'D\(4\)'"):
        default_action(Group.parse("C(3)"), (X,))
    both = default_action(group, (X, torch.ones(4, 2)))
    image, vector = both(group.finite[0], (X, torch.tensor([[1.0, 0.0]])))
    assert torch.equal(image, X.rot90(1, (-2, -1)))
    torch.testing.assert_close(vector, torch.tensor([[0.0, 1.0]]))


class Gradient(nn.Module):
    """Central differences: a map of vectors, on an axis between the channels and the pixels; and what is made of it."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x - x.mean()
        # rows are counted downwards, y upwards
        v = torch.stack([x.roll(-1, -1) - x.roll(1, -1), x.roll(1, -2) - x.roll(-1, -2)], 2)
        tokens = v.flatten(3).movedim(-1, 1)
        return (
            v,
            tokens,
            tokens.square().sum((2, 3)),
            x.movedim(1, -1),
            v.norm(dim=2).mean((2, 3)),
            v[:, 0, :1] * v[:, 0, 1:],
        )


@pytest.mark.parametrize("name", ["C(4)", "D(4)"])
def test_values_are_told_as_what_they_transform(name: str) -> None:
    report = inspect(Gradient(), name, X)
    assert [output.transforms for output in report.outputs] == [
        "vector on axis -3 on pixels that move",
        "vector on axis -1 on pixels that move",
        "invariant on pixels that move",
        "invariant on pixels that move",
        "invariant",
        "pseudoscalar on pixels that move",
    ]
    # v_x v_y may be meant, or a sign be wrong: only an output action tells
    assert [output.status.value for output in report.verdict.outputs] == ["sound"] * 5 + ["undecided"]
    assert not report.is_sound
    assert "output_action" in str(report)


def test_orientation_channels_carry_the_regular_representation() -> None:
    evidence = Observer(GroupNet(), Group.parse("C(4)"), (X,)).evidence(samples=2)
    found = {node.meta["module"]: evidence.of(node) for node in evidence.nodes if node.op == "call_function"}
    for path, channels in (("lift", 12), ("conv", 16)):
        assert (found[path].axes, found[path].pixels) == ((-3,), Pixels(-2, {"lift": 8, "conv": 4}[path]))
        (turn,) = found[path].actions
        assert turn.shape == (channels, channels)
        torch.testing.assert_close(torch.linalg.matrix_power(turn, 4), torch.eye(channels).double())
        torch.testing.assert_close(turn.abs().round().sum(0), torch.ones(channels).double())


MADE = {
    "symmetric kernels": {"first.weight": ("1xtrivial", "6xtrivial"), "second.weight": ("6xtrivial", "6xtrivial")},
    "group convolutions": {"lift.weight": ("1xtrivial", "3xfitted4"), "conv.weight": ("3xfitted4", "4xfitted4")},
    "segmentation": {"down.weight": ("1xtrivial", "4xtrivial"), "up.weight": ("4xtrivial", "2xtrivial")},
}
"""Convolutions whose kernels are made of these parameters, and what the channels carry."""


@pytest.mark.parametrize("name", SOUND)
def test_convolutions_with_kernels_that_are_made_are_sites_and_bare_ones_are_not(name: str) -> None:
    make, size = SOUND[name]
    found = plan(make(), "C(4)", example_inputs=torch.randn(4, 1, size, size))
    assert {site.path: (str(site.map.rep_in), str(site.map.rep_out)) for site in found.sites} == MADE[name]
    assert all(site.proof is not None and site.proof < 1e-9 for site in found.sites)
    assert not found.unsound


def test_a_layer_that_mixes_pixels_is_unsound() -> None:
    found = plan(FlattenNet(), "C(4)", example_inputs=X.float())
    assert [rejected.path for rejected in found.unsound] == ["hidden"]
    assert "it mixes pixels with weights that change with their places" in found.unsound[0].reason
    with pytest.raises(ValueError, match="these layers should be equivariant but are not: 'hidden'"):
        relaxify(FlattenNet(), "C(4)", example_inputs=X.float())


def test_a_layer_that_leaves_the_pixels_alone_is_relaxed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(1, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            v = torch.stack([x.roll(-1, d) - x.roll(1, d) for d in (-1, -2)], 2)
            return self.mix(v.movedim(1, -1)).movedim(-1, 1)

    model = relaxify(Mixed(), "C(4)", example_inputs=X.float())
    assert model.mix.relaxation is not None


def circular(*, stride: int = 1, mode: str = "circular") -> nn.Module:
    first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
    second = nn.Conv2d(4, 3, 3, padding=1, stride=stride, padding_mode=mode)
    return nn.Sequential(first, nn.GELU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


def test_shifts_go_through_circular_convolutions_alone() -> None:
    assert inspect(circular(), "T(2)", X.float()).is_sound
    for model, kind in ((circular(stride=2), "resampling"), (circular(mode="zeros"), "padding")):
        fault = inspect(model, "T(2)", X.float()).fault
        assert fault is not None
        assert (fault.module, fault.op, fault.kind) == ("2", "conv2d", kind)

    # four images are too few to fit 40 numbers
    first = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    flat = nn.Sequential(first, nn.Flatten(), nn.Linear(128, 40), nn.ReLU(), nn.Linear(40, 3))
    fault = inspect(flat, "T(2)", X.float()).fault
    assert fault is not None
    assert (fault.module, fault.kind) == ("2", "flatten")


def test_memory_that_holds_anything_says_nothing() -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result = torch.full_like(x, torch.nan)
            result[:] = x
            return result

    report = inspect(Filled(), "C(4)", X)
    assert report.is_sound
