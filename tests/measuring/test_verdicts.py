"""Verdicts on models of which it is plain whether they commute with the group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measuring.models import Mix, Of, points
from torch import Tensor, nn

from relaxify.verdicts.measuring import measure
from relaxify.verdicts.verdict import Reason, Status

X = points()
Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
ETA = torch.diag(torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64))


def lattice() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(3.0)] * 3)


def nearest_three(x: Tensor) -> Tensor:
    near = torch.cdist(x, x).topk(4, largest=False).indices[:, 1:]
    return (x[near] - x[:, None]).sum(1)


def irreps(x: Tensor) -> Tensor:
    """An invariant and two vectors along one axis, one row."""
    return torch.cat([x.norm()[None], x.sum(0), (x * x.norm(dim=1, keepdim=True)).sum(0)])


SOUND = {
    "vector": ("O(3)", lambda x: x * x.norm(), "vector on axis -1"),
    "invariant": ("O(3)", lambda x: x.norm(dim=1), "invariant"),
    "one energy": ("O(3)", lambda x: x.norm(), "invariant"),
    "pseudovector": ("O(3)", lambda x: torch.linalg.cross(x, x.roll(1, 0)), "pseudo-vector on axis -1"),
    "pseudoscalar": ("O(3)", lambda x: torch.linalg.det(x[:3]), "pseudoscalar"),
    "tensor": ("O(3)", lambda x: x.mT @ x, "vector⊗vector on axes -2 and -1"),
    "tensor, flat": ("O(3)", lambda x: (x.mT @ x).flatten(), "vector⊗vector on axis -1"),
    "stress": ("O(3)", lambda x: (x.mT @ x)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], "symmetric tensor on axis -1"),
    "strain": (
        "O(3)",
        lambda x: (x.mT @ x)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * torch.tensor([1, 1, 1, 2, 2, 2]),
        "strain on axis -1",
    ),
    "rank 3": ("O(3)", lambda x: torch.einsum("ni,nj,nk->ijk", x, x, x), "tensor of rank 3 on axes -3 and -2 and -1"),
    "one row of irreps": ("O(3)", irreps, "7-dimensional on axis -1"),
    "frequency 2": (
        "SO(2)",
        lambda x: torch.stack([x[:, 0] ** 2 - x[:, 1] ** 2, 2 * x[:, 0] * x[:, 1]], 1),
        "2-dimensional on axis -1",
    ),
    "sorted by length": ("O(3)", lambda x: x[x.norm(dim=1).argsort()], "vector on axis -1"),
    "nearest neighbours": ("O(3)", nearest_three, "vector on axis -1"),
    "tiny": ("O(3)", lambda x: 1e-12 * x.norm(), "invariant"),
    "huge": ("O(3)", lambda x: 1e12 * x * x.norm(), "vector on axis -1"),
    "beside a constant": ("O(3)", lambda x: 1e6 + x.norm(), "invariant"),
    "complex": ("O(3)", lambda x: torch.complex(x, 2 * x), "vector on axis -1"),
    "sparse": ("O(3)", lambda x: (x[:, 0:1] * 0 + x).to_sparse(), "vector on axis -1"),
    "covector": ("SO(1,3)", lambda p: p @ ETA.to(p), "covector on axis -1"),
    "mass": ("SO(1,3)", lambda p: torch.einsum("ni,ij,nj->n", p, ETA.to(p), p), "invariant"),
    "area": ("SL(2)", lambda x: x[:, 0] * x.roll(1, 0)[:, 1] - x[:, 1] * x.roll(1, 0)[:, 0], "invariant"),
    "permutations": ("S(4)", lambda x: x.relu().sum(1), "invariant"),
}
SIZES = {"SO(2)": 2, "SO(1,3)": 4, "SL(2)": 2, "S(4)": 4}


def inputs_of(group: str) -> tuple[Tensor, ...]:
    size = SIZES.get(group, 3)
    return (torch.randn(20, size, generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("name", SOUND)
def test_what_transforms_is_sound(name: str) -> None:
    group, function, transforms = SOUND[name]
    verdict = measure(Of(function), group, inputs_of(group))
    assert (verdict.status, verdict.reason) == (Status.SOUND, Reason.EQUIVARIANT)
    assert verdict.outputs[0].transforms == transforms
    assert verdict.error.largest < 1e-9


BROKEN = {
    "components": ("SO(3)", torch.relu),
    "one energy of components": ("SO(3)", lambda x: torch.relu(x).sum()),
    "small part": ("SO(3)", lambda x: x.norm() + 1e-3 * x[0, 0]),
    "beside a constant": ("SO(3)", lambda x: 1e8 + torch.relu(x).norm()),
    "tiny": ("SO(3)", lambda x: 1e-12 * torch.relu(x)),
    "parity": ("O(3)", lambda x: torch.linalg.det(x[:3]) + x.norm()),
    "dense on vectors": ("SO(3)", lambda x: x @ torch.arange(9.0).reshape(3, 3).to(x)),
    "dense on irreps": ("O(3)", lambda x: irreps(x) * torch.arange(1, 8)),
    "unit vectors of components": ("O(3)", lambda x: nn.functional.normalize(torch.relu(torch.cat([x, x**2], 1)), dim=-1)),
    "sorted by a coordinate": ("O(3)", lambda x: x.norm(dim=1)[x[:, 0].argsort()]),
    "a class by a coordinate": ("O(3)", lambda x: x[:, 0].argmax()),
    "rows by a coordinate": ("SO(3)", lambda x: x[x[:, 0] > 0].sum(0)),
    "length of four-vectors": ("SO(1,3)", lambda p: p.norm(dim=1)),
    "weights for positions": ("S(4)", lambda x: (x * torch.arange(4)).sum(1)),
    "cut-off without a clamp": (
        "SO(3)",
        lambda x: (1 - (torch.relu(x)[:, None] - x[None]).norm(dim=-1) / 5).pow(6).sum(),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_transform_is_broken(name: str) -> None:
    group, function = BROKEN[name]
    verdict = measure(Of(function), group, inputs_of(group))
    assert (verdict.status, verdict.reason) == (Status.BROKEN, Reason.ERROR)
    assert 1e-5 < verdict.error.largest <= 3


@pytest.mark.parametrize("seed", range(10))
def test_a_fault_that_looks_at_a_sign_shows(seed: int) -> None:
    verdict = measure(Of(lambda x: torch.where(x[:1, :1] > 0, 2 * x, x)), "SO(3)", (points(seed=seed),), own=False)
    assert verdict.status is Status.BROKEN


@pytest.mark.parametrize("graphs", [1, 2, 3, 8])
def test_one_energy_for_each_of_a_few_graphs_is_told(graphs: int) -> None:
    batch = torch.arange(graphs).repeat_interleave(5)

    def energies(function, x: Tensor, batch: Tensor) -> Tensor:
        return torch.zeros(graphs).to(x).index_add(0, batch, function(x))

    def act(g: Tensor, inputs):
        return inputs[0] @ g.mT, inputs[1]

    inputs = points(5 * graphs), batch
    for function, status in ((lambda x: x.norm(dim=1), Status.SOUND), (lambda x: x.relu().norm(dim=1), Status.BROKEN)):
        model = Of(lambda x, batch, function=function: energies(function, x, batch))
        assert measure(model, "SO(3)", inputs, input_action=act).status is status


def test_vectors_in_another_basis_are_a_convention() -> None:
    for function in (lambda x: x @ Q.to(x), lambda x: x.roll(1, -1)):
        verdict = measure(Of(function), "SO(3)", (X,))
        assert (verdict.status, verdict.reason) == (Status.BROKEN, Reason.CONVENTION)


def test_ties_are_ties() -> None:
    verdict = measure(Of(nearest_three), "SO(3)", (lattice(),))
    assert (verdict.status, verdict.reason) == (Status.BROKEN, Reason.TIES)


def test_outputs_of_other_shapes_are_broken_without_an_exception() -> None:
    verdict = measure(Of(lambda x: x[x[:, 0] > 0]), "SO(3)", (X,))
    assert (verdict.status, verdict.reason, verdict.where) == (Status.BROKEN, Reason.SHAPES, "output")


@pytest.mark.parametrize("gain", [1.0, 1e-3, 1e-6])
def test_a_saturated_output_is_told_by_what_varies(gain: float) -> None:
    verdict = measure(Of(lambda x: torch.tanh(3 + gain * x.relu().norm(dim=1))), "SO(3)", (X,))
    assert verdict.status is Status.BROKEN
    assert 0.1 < verdict.error.largest <= 1.5


@pytest.mark.parametrize("function", [lambda x: x.sum() * 0 + 1, lambda x: 1 + 1e-18 * x.norm(), lambda x: x.norm() > -1])
def test_an_output_that_does_not_respond_proves_nothing(function) -> None:
    verdict = measure(Of(function), "SO(3)", (X,))
    assert (verdict.status, verdict.reason) == (Status.UNDECIDED, Reason.SILENT)


def test_a_constant_beside_what_responds_is_no_matter() -> None:
    verdict = measure(Of(lambda x: (x, torch.ones(3), 5)), "SO(3)", (X,))
    assert verdict.is_sound
    assert [each.reason for each in verdict.outputs] == [Reason.EQUIVARIANT, Reason.SILENT, Reason.SILENT]


def test_nan_is_never_sound_and_told_where() -> None:
    def forces(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        energy = (x[:, None] - x[None]).square().sum(-1).sqrt().sum()
        return energy, torch.autograd.grad(energy, x)[0]

    spoilt = Mix()
    spoilt.mix.weight.data[0] = torch.nan
    cases = ((Of(forces), X, "output.1 on x"), (Mix(), X * torch.nan, "input.0"), (spoilt, X, "parameter mix.weight"))
    for model, x, where in cases:
        verdict = measure(model, "SO(3)", (x,))
        assert (verdict.status, verdict.reason, verdict.where) == (Status.UNDECIDED, Reason.NOT_FINITE, where)


def test_integers_and_booleans_are_right_or_wrong() -> None:
    def classes(x: Tensor) -> dict[str, Tensor]:
        return {"x": x, "class": (x.norm(dim=1) * 3).long(), "mask": x.norm(dim=1) > 1}

    assert measure(Of(classes), "SO(3)", (X,)).is_sound
    wrong = measure(Of(lambda x: classes(x) | {"mask": x[:, 1] > 0}), "SO(3)", (X,))
    assert [each.status for each in wrong.outputs] == [Status.SOUND, Status.SOUND, Status.BROKEN]


def test_an_action_that_moves_nothing_proves_nothing() -> None:
    assert measure(Of(lambda x: x), "SO(3)", (X,), input_action=lambda g, inputs: inputs).reason is Reason.UNMOVED


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Plain:
    def __init__(self, value: Tensor) -> None:
        self.value = [{"deep": value}]


HIDING = (
    Slots,
    Plain,
    lambda v: v.detach().numpy(),
    lambda v: torch.distributions.Normal(v, 1.0),
    lambda v: lambda: v,
    lambda v: iter([v]),
)
EMPTY = (lambda v: None, lambda v: "text", lambda v: 2.5, lambda v: [])


@pytest.mark.parametrize(
    "wrap", [*HIDING, *EMPTY, *(lambda v, hide=hide: {"seen": v, "hidden": hide(v)} for hide in HIDING)]
)
def test_an_output_without_tensors_is_undecided_and_told_how_to_return_them(wrap) -> None:
    verdict = measure(Mix(then=wrap), "SO(3)", (X,))
    assert (verdict.status, verdict.reason, verdict.outputs) == (Status.UNDECIDED, Reason.UNSEEN, ())
    assert "return tensors, in tuples, dicts or dataclasses" in verdict.told


@pytest.mark.parametrize("wrap", EMPTY)
def test_what_holds_no_tensor_is_no_matter_beside_one(wrap) -> None:
    assert measure(Mix(then=lambda v: (v, wrap(v))), "SO(3)", (X,)).is_sound


def test_a_model_that_draws_random_numbers_is_not_sound() -> None:
    def noisy(v: Tensor) -> Tensor:
        return v * torch.rand(())

    assert measure(Mix(then=noisy), "SO(3)", (X,)).reason is Reason.RANDOM
    assert measure(Mix(then=noisy), "SO(3)", (X,), training=True).is_sound
    assert measure(Mix(then=lambda v: torch.relu(v) + torch.rand(())), "SO(3)", (X,)).status is Status.BROKEN


def test_what_counts_responds_further_away() -> None:
    verdict = measure(Of(lambda x: (x.norm(dim=1) > 5).to(x)), "SO(3)", (X,))
    assert verdict.is_sound
    assert verdict.inputs == 3
    assert not measure(Of(lambda x: (x[:, 0] > 5).to(x)), "SO(3)", (X,)).is_sound


def test_of_a_sign_that_quarter_turns_flip_only_an_output_action_tells_that_it_is_meant() -> None:
    x = torch.randn(20, 2)
    model = Of(lambda x: (x[:, 0] ** 2 - x[:, 1] ** 2).sum())
    assert measure(model, "C(4)", (x,)).reason is Reason.SIGN
    assert measure(model, "C(4)", (x,), output_action=lambda g, y: y * (g[0, 0] ** 2 - g[0, 1] ** 2)).is_sound
    # the vector in a basis whose second axis points the other way
    assert measure(Of(lambda x: x * torch.tensor([1.0, -1.0])), "C(4)", (x,)).is_sound
    assert measure(Of(lambda x: x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0]), "O(2)", (x,)).is_sound
    assert measure(Of(lambda x: (x**3).sum()), "C(2)", (x,)).is_sound


def test_spherical_components_are_a_basis() -> None:
    def spherical(x: Tensor) -> Tensor:
        return torch.stack([x[..., 0] - 1j * x[..., 1], 2**0.5 * x[..., 2] + 0j, -x[..., 0] - 1j * x[..., 1]], -1)

    assert measure(Of(spherical), "SO(3)", (X,)).is_sound
    assert measure(Of(lambda x: torch.complex(x, x)[:, [1, 2, 0]]), "SO(3)", (X,)).reason is Reason.CONVENTION


@dataclasses.dataclass(frozen=True)
class Result:
    value: Tensor
    count: int


@pytest.mark.parametrize("wrap", [lambda v: Result(v, 3), lambda v: SimpleNamespace(v=v), lambda v: {"a": (v, [v])}])
def test_tensors_are_seen_in_any_container(wrap) -> None:
    assert measure(Mix(then=wrap), "SO(3)", (X,)).is_sound
    assert not measure(Mix(then=lambda v: wrap(torch.relu(v))), "SO(3)", (X,)).is_sound


def turn(g: Tensor, image: Tensor) -> Tensor:
    return image.rot90(round(float(torch.atan2(g[1, 0], g[0, 0])) / (torch.pi / 2)), (2, 3))


class Cross(nn.Module):
    """A map from a map, by a kernel that looks the same after a quarter turn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4, 1, 1, 1))
        self.register_buffer("kernel", torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.conv2d(x, self.scale * self.kernel, padding=1))


def test_maps_are_judged_as_the_images_move() -> None:
    image = torch.randn(2, 1, 9, 9)
    act = {"input_action": lambda g, inputs: (turn(g, inputs[0]),)}
    for model, status in ((Cross(), Status.SOUND), (nn.Conv2d(1, 4, 3, padding=1), Status.BROKEN)):
        assert measure(model, "C(4)", (image,), **act).status is status
        assert measure(model, "C(4)", (image,), **act, output_action=turn).status is status
        assert measure(model, "C(4)", (torch.randn(3, 1, 9, 9),)).status is status


def test_positions_out_translate_with_positions_in() -> None:
    def act(g: Tensor, inputs):
        return (inputs[0] + g[:3, 3],)

    def update(x: Tensor) -> Tensor:
        return 0.3 * (x - x.mean(0)) + x.mean(0)

    verdict = measure(Of(update), "T(3)", (X,), input_action=act)
    assert (verdict.status, verdict.outputs[0].transforms) == (Status.SOUND, "position on axis -1")
    assert measure(Of(lambda x: x - x.mean(0)), "T(3)", (X,), input_action=act).is_sound
    assert measure(Of(lambda x: 0.9 * x), "T(3)", (X,), input_action=act).status is Status.BROKEN


def test_an_output_action_is_taken_at_its_word() -> None:
    assert measure(Mix(), "SO(3)", (X,), output_action=lambda g, y: torch.einsum("ij,njc->nic", g, y)).is_sound
    assert measure(Mix(), "SO(3)", (X,), output_action=lambda g, y: y).status is Status.BROKEN


def test_a_constant_in_float32_sets_the_tolerance_that_is_stated() -> None:
    def rounded(x: Tensor) -> Tensor:
        return x * torch.from_numpy(x.detach().numpy().astype(np.float32)).norm(dim=1, keepdim=True)

    verdict = measure(Of(rounded), "SO(3)", (X,))
    assert (verdict.is_sound, verdict.precision) == (True, torch.float32)
    assert 1e-9 < verdict.error.largest < verdict.tolerance < 1e-3


def test_a_model_that_rests_on_rotations_is_measured_on_rotations() -> None:
    def to_quaternion_and_back(frames: Tensor, x: Tensor) -> Tensor:
        """R x with R by its skew part and trace, which only a rotation is."""
        cosine = (frames.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
        skew = (frames - frames.mT) / 2
        rebuilt = torch.eye(3).to(x) + skew + skew @ skew / (1 + cosine)[:, None, None]
        return (frames.mT @ rebuilt @ x[..., None]).squeeze(-1)

    frames = torch.linalg.qr(torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(1)))[0]
    frames = frames * torch.linalg.det(frames)[:, None, None]

    def act(g: Tensor, inputs):
        return g @ inputs[0], inputs[1]

    assert measure(Of(to_quaternion_and_back), "SO(3)", (frames, points(6)), input_action=act).is_sound


class Quadrupoles(nn.Module):
    """x (x) x in a basis of symmetric traceless matrices, and back: as good as the digits of that basis."""

    def __init__(self, *, leak: float = 0.0) -> None:
        super().__init__()
        rows = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        rows = rows + rows.mT
        rows = rows - torch.eye(3) * rows.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        self.register_buffer("basis", torch.linalg.qr(rows.flatten(1).mT).Q.mT.unflatten(1, (3, 3)).clone())
        self.weight = nn.Parameter(torch.ones(1) / 3)
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("mij,ni,nj->nm", self.basis, x, x)
        z = self.weight * torch.einsum("mij,nm,nj->ni", self.basis, y, x)
        return z + self.leak * z.abs()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_constants_of_few_digits_are_granted_what_these_do_and_no_more(dtype: torch.dtype) -> None:
    verdict = measure(Quadrupoles().to(dtype), "SO(3)", (X.to(dtype),), own=False)
    assert verdict.status is Status.SOUND
    # a bound that is stated, and that few digits alone come near
    assert verdict.error.largest < verdict.tolerance <= 0.05
    assert measure(Quadrupoles(leak=0.2).to(dtype), "SO(3)", (X.to(dtype),), own=False).status is Status.BROKEN


@pytest.mark.parametrize(
    "zero", [lambda x: (x - x.mean(0)).sum(0), lambda x: (x / x.norm(dim=1, keepdim=True)).norm(dim=1) - 1]
)
def test_an_output_that_is_zero_but_for_rounding_says_nothing(zero: Callable[[Tensor], Tensor]) -> None:
    alone = measure(Of(zero), "SO(3)", (X,))
    assert (alone.status, alone.reason) == (Status.UNDECIDED, Reason.SILENT)
    assert measure(Of(lambda x: (x, zero(x))), "SO(3)", (X,)).is_sound
    assert measure(Of(lambda x: (x.abs(), zero(x))), "SO(3)", (X,)).status is Status.BROKEN


@pytest.mark.parametrize("shape", [(3, len(X)), (len(X), 3)])
def test_vectors_across_axes_are_in_another_order(shape: tuple[int, int]) -> None:
    turned = (lambda x: x.reshape(shape)) if shape[0] == 3 else (lambda x: x.mT.reshape(shape))
    verdict = measure(Of(turned), "SO(3)", (X,))
    assert (verdict.status, verdict.reason) == (Status.BROKEN, Reason.CONVENTION)


def test_zeros_that_the_group_moves_are_varied_and_others_are_codes() -> None:
    zeros = torch.zeros(7, 3)
    assert measure(Of(lambda x: x * (1 + x.norm())), "SO(3)", (zeros,)).is_sound
    assert measure(Of(torch.relu), "SO(3)", (zeros,)).status is Status.BROKEN
    shifts = torch.zeros(20, 3)
    # what is no cell of a lattice but zero would break it
    cells = measure(
        Of(lambda x, cells: x + cells.round() + cells.abs()),
        "SO(3)",
        (X, shifts),
        input_action=lambda g, inputs: (inputs[0] @ g.mT, inputs[1]),
    )
    assert cells.is_sound


def test_what_only_amplifies_rounding_is_undecided_and_no_tie() -> None:
    def chaotic(x: Tensor) -> Tensor:
        for _ in range(20):
            x = 3 * x * torch.cos(9 * x.norm(dim=1, keepdim=True))
        return x

    assert measure(Of(chaotic), "SO(3)", (X,)).reason is Reason.ROUNDING
