"""Every form of generators is the linear operators that its matrices say, whatever it executes."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import unchecked
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from relaxify import Group
from relaxify.lconv import LConv
from relaxify.lconv.operators import (
    Dense,
    Generators,
    Grid,
    ImageAlgebra,
    LowRank,
    Points,
    Shifts,
    SignalAlgebra,
    Sparse,
    algebra,
    exponential_action,
    graph,
)
from relaxify.lconv.operators.family import Space
from relaxify.lconv.operators.images import NAMES as FLOW_NAMES

Made = tuple[Generators, Space]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sparse() -> Sparse:
    indices = torch.tensor([[0, 1, 1, 3, 5, 7, 11], [3, 0, 2, 1, 3, 2, 1]])
    return Sparse(indices, noise(7), 3, (2, 2))


def stencil(**settings: object) -> Shifts:
    return Shifts((3, 3), padding=((1, 1), (1, 1)), **settings)  # type: ignore[arg-type]


FAMILIES: dict[str, Callable[[], Made]] = {
    "dense": lambda: (Dense(noise(3, 6, 6), space=(2, 3)), (2, 3)),
    "dense between spaces": lambda: (Dense(noise(3, 4, 6), space=(2, 3), space_out=(4,)), (2, 3)),
    "sparse": lambda: (sparse(), (2, 2)),
    "low rank": lambda: (LowRank(noise(3, 6, 2), noise(3, 2, 6, seed=1), space=(2, 3)), (2, 3)),
    "low rank between spaces": lambda: (LowRank(noise(3, 4, 2), noise(3, 2, 6, seed=1), space=(2, 3)), (2, 3)),
    "grid": lambda: (Grid(noise(3, 9, 4, 5), stencil(), space=(4, 5)), (4, 5)),
    "grid, everywhere the same": lambda: (Grid(noise(3, 9), stencil(padding_mode="circular")), (4, 5)),
    "grid, strided": lambda: (Grid(noise(2, 9, 2, 3), stencil(stride=(2, 2)), space=(4, 5)), (4, 5)),
    "graph": lambda: (graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 3]]), 5).double(), (5,)),
    "shifts": lambda: (stencil(), (4, 5)),
    "shifts, strided and reflected": lambda: (stencil(stride=(2, 1), padding_mode="reflect"), (4, 5)),
    "shifts, replicated": lambda: (stencil(padding_mode="replicate"), (4, 5)),
    "shifts, transposed": lambda: (stencil(stride=(2, 2), transposed=True, output_padding=(1, 0)), (3, 4)),
    "points": lambda: (Points((2, 3)), (2, 3)),
    "images, spectral": lambda: (
        ImageAlgebra(FLOW_NAMES, "spectral"),
        (4, 5),
    ),
    "images, bilinear": lambda: (
        ImageAlgebra(FLOW_NAMES, "bilinear"),
        (5, 4),
    ),
    "signals": lambda: (SignalAlgebra(("translation", "scaling")), (6,)),
    "so(3)": lambda: (algebra("so(3)").double(), (3,)),
}


NAMES = pytest.mark.parametrize("name", FAMILIES)
MATRICES = [name for name in FAMILIES if name not in ("dense between spaces", "low rank between spaces", "points")]
SQUARE = pytest.mark.parametrize("name", [name for name in MATRICES if "strided" not in name and "transposed" not in name])


def matrices(generators: Generators, space: Space) -> Tensor:
    return generators.dense(space, dtype=torch.float64)


def through_matrices(generators: Generators, space: Space, h: Tensor) -> Tensor:
    out = torch.einsum("nij,bcj->nbci", matrices(generators, space), h.flatten(2))
    return out.reshape(*out.shape[:3], *generators.space_out(space))


@NAMES
def test_act_is_the_matrices(name: str) -> None:
    generators, space = FAMILIES[name]()
    h = noise(2, 3, *space)
    torch.testing.assert_close(generators.act(h), through_matrices(generators, space, h))


@NAMES
def test_no_samples_are_an_empty_batch(name: str) -> None:
    generators, space = FAMILIES[name]()
    h = noise(0, 4, *space).requires_grad_()
    out = generators.mix(h, noise(*generators.weight_shape(6, 4)))
    assert out.shape == (0, 6, *generators.space_out(space))
    out.sum().backward()
    if generators.space_out(space) == space:
        assert generators.expm_apply(torch.ones(generators.count).to(h), h).shape == h.shape


@NAMES
def test_mix_is_equation_6(name: str) -> None:
    generators, space = FAMILIES[name]()
    h, weight = noise(2, 4, *space), noise(*generators.weight_shape(6, 4), seed=3)
    expected = torch.einsum(
        "noc,nbcs->bos", generators.per_generator(weight), through_matrices(generators, space, h).flatten(3)
    )
    torch.testing.assert_close(generators.mix(h, weight).flatten(2), expected)


LOCAL: dict[str, tuple[Shifts, Space]] = {
    "one axis": (Shifts((3,), padding=((2, 0),)), (7,)),
    "strided, dilated": (Shifts((2, 3), stride=(2, 1), padding=((1, 1), (2, 2)), dilation=(1, 2)), (5, 6)),
    "circular": (stencil(padding_mode="circular"), (4, 5)),
    "reflecting": (stencil(padding_mode="reflect"), (4, 5)),
    "transposed": (Shifts((3, 2), stride=(2, 2), padding=((1, 1), (0, 0)), transposed=True), (3, 4)),
    "three axes": (Shifts((2, 1, 2), padding=((0, 1), (0, 0), (1, 0))), (3, 2, 4)),
}


def by_taps(grid: Grid, h: Tensor, weight: Tensor, groups: int) -> Tensor:
    """sum_ik W^i a_ik(mu) [S_k h]_mu, term by term."""
    moved = torch.einsum("nkm,kbcm->nbcm", grid.taps.flatten(2), grid.stencil.act(h).flatten(3))
    blocks = moved.unflatten(2, (groups, -1))
    out = torch.einsum("nbgcm,ngoc->bgom", blocks, weight.unflatten(1, (groups, -1)))
    return out.flatten(1, 2).reshape(len(h), -1, *grid.space_out())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", LOCAL)
def test_weights_of_each_points_own_are_a_sum_over_taps_with_its_gradients(name: str, groups: int) -> None:
    rule, space = LOCAL[name]
    grid = Grid(noise(2, rule.count, *rule.space_out(space)), rule, space=space)
    h, weight = noise(3, 4, *space).requires_grad_(), noise(2, 8, 4 // groups, seed=1).requires_grad_()
    found, expected = grid.mix(h, weight, groups), by_taps(grid, h, weight, groups)
    torch.testing.assert_close(found, expected)
    inputs = (h, weight, grid.taps)
    first, known = (torch.autograd.grad(out.sin().sum(), inputs, create_graph=True) for out in (found, expected))
    torch.testing.assert_close(first, known)
    second, twice = (torch.autograd.grad(sum(each.cos().sum() for each in got), inputs) for got in (first, known))
    torch.testing.assert_close(second, twice)


def test_local_weights_run_wherever_a_convolution_does() -> None:
    """Without samples, under vmap and forward derivatives, exported; and what they read is no part of the state."""
    grid = FAMILIES["grid"]()[0]
    layer = LConv(grid, 2, 3).double()
    h = noise(5, 2, 4, 5)
    assert layer(h[:0]).shape == (0, 3, 4, 5)
    torch.testing.assert_close(torch.vmap(layer)(h[:, None])[:, 0], layer(h))
    _, derivative = torch.func.jvp(layer, (h,), (h.sin(),))
    torch.testing.assert_close(derivative, layer(h.sin()) - layer(torch.zeros_like(h)))
    with unchecked():
        exported = torch.export.export(layer, (h,)).module()
    torch.testing.assert_close(exported(h), layer(h))
    assert list(layer.state_dict()) == ["weight", "identity_weight", "bias", "generators.taps"]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "points"])
def test_mix_in_groups_is_mix_with_block_diagonal_weights(name: str) -> None:
    generators, space = FAMILIES[name]()
    h, weight = noise(2, 4, *space), noise(*generators.weight_shape(6, 4, 2), seed=3)
    per_generator = generators.per_generator(weight, 2)
    blocks = torch.stack([torch.block_diag(*matrix.chunk(2)) for matrix in per_generator])
    expected = torch.einsum("noc,nbcs->bos", blocks, through_matrices(generators, space, h).flatten(3))
    torch.testing.assert_close(generators.mix(h, weight, 2).flatten(2), expected)


@NAMES
def test_transpose_is_the_adjoint(name: str) -> None:
    generators, space = FAMILIES[name]()
    transposed = generators.transpose(space)
    expected = matrices(generators, space).mT
    torch.testing.assert_close(transposed.dense(generators.space_out(space), dtype=torch.float64), expected)
    x, y = noise(1, 2, *space), noise(1, 2, *generators.space_out(space), seed=1)
    left = (generators.act(x) * y).flatten(1).sum(1)
    torch.testing.assert_close(left, (transposed.double().act(y) * x).flatten(1).sum(1))


@SQUARE
def test_the_exponential_is_the_matrix_exponential(name: str) -> None:
    generators, space = FAMILIES[name]()
    t = noise(generators.count, seed=2)
    h = noise(2, 3, *space)
    matrix = torch.linalg.matrix_exp(torch.einsum("n,nij->ij", t, matrices(generators, space)))
    torch.testing.assert_close(generators.expm_apply(t, h).flatten(2), h.flatten(2) @ matrix.mT, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 6), st.floats(0, 30), st.integers(0, 1000))
def test_exponentials_of_any_size(d: int, size: float, seed: int) -> None:
    matrix = noise(d, d, seed=seed)
    matrix = (matrix - matrix.mT) * size / matrix.norm()
    v = noise(d, seed=seed + 1)
    expected = torch.linalg.matrix_exp(matrix) @ v
    torch.testing.assert_close(exponential_action(lambda w: matrix @ w, v), expected, rtol=1e-9, atol=1e-9)


def test_an_exponential_has_gradients() -> None:
    generators = Dense(noise(2, 3, 3))
    assert torch.autograd.gradcheck(generators.expm_apply, (noise(2).requires_grad_(), noise(1, 2, 3).requires_grad_()))


def test_an_exponential_of_nothing_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite values"):
        Dense(torch.full((1, 2, 2), torch.nan)).expm_apply(torch.ones(1), torch.ones(1, 1, 2))


@NAMES
def test_learnable_numbers_get_their_gradients(name: str) -> None:
    generators, space = FAMILIES[name]()
    parameters = list(generators.parameters())
    h = noise(2, 4, *space)
    weight = noise(*generators.weight_shape(2, 4), seed=3)
    if not parameters:
        return
    generators.mix(h, weight).square().sum().backward()
    direct = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    stack = generators.act(h).flatten(3)
    torch.einsum("noc,nbcs->bos", generators.per_generator(weight), stack).square().sum().backward()
    for parameter, gradient in zip(parameters, direct, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@NAMES
def test_power_is_the_mean_square_of_a_row(name: str) -> None:
    generators, space = FAMILIES[name]()
    if generators.space is None:
        return
    expected = matrices(generators, space).square().sum(2).mean(1)
    torch.testing.assert_close(generators.power().double(), expected, rtol=0.6, atol=1e-6)


@NAMES
def test_families_survive_copies_and_pickles(name: str) -> None:
    generators, space = FAMILIES[name]()
    h = noise(1, 2, *space)
    for twin in (copy.deepcopy(generators), pickle.loads(pickle.dumps(generators))):
        assert torch.equal(twin.act(h), generators.act(h))
    assert str(generators)


def test_initialisers_walk_through_families() -> None:
    seen: list[str] = []
    nn.Sequential(Dense(noise(1, 2, 2))).apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Dense", "Sequential"]


def test_a_dense_matrix_of_an_image_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match=r"9 dense generators of 50176 x 50176 would take 90\.6 GB, and the limit is 1\.1"):
        stencil().dense((224, 224))
    with pytest.raises(ValueError, match=r"1 dense generators .* 10\.1 GB"):
        ImageAlgebra().dense((224, 224))
    assert stencil().dense((8, 8), limit=9 * 64 * 64 * 4).shape == (9, 64, 64)
    with pytest.raises(ValueError, match="limit=147456"):
        stencil().dense((8, 8), limit=9 * 64 * 64 * 4 - 1)


LARGE = {
    "shifts": stencil,
    "grid": lambda: Grid.random(2, stencil(), space=(160, 160)),
    "grid, everywhere the same": lambda: Grid.random(2, stencil()),
    "low rank": lambda: LowRank.random(2, (160, 160), rank=2),
    "images": lambda: ImageAlgebra(("rotation", "scaling")),
    "points": lambda: Points((160, 160)),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_matrix_is_formed_unless_asked_for(name: str) -> None:
    """At 160 x 160 one matrix is 2.6 GB: nothing larger than a few images is made by any operation."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
            return out

    generators = LARGE[name]()
    h = torch.randn(1, 2, 160, 160)
    weight = torch.randn(generators.weight_shape(2, 2))
    with Watch():
        generators.mix(h, weight)
        if name != "points":
            generators.act(h)
            generators.combine(torch.ones(generators.count), h)
            generators.power((160, 160))
    assert largest <= 9 * 32 * 160 * 160


def test_low_rank_cannot_be_a_shift_but_a_grid_is() -> None:
    """Rank 16 at d = 784 leaves a relative error of .99."""
    shift = torch.eye(784).roll(1, 0)
    u, s, v = torch.linalg.svd(shift)
    best = LowRank((u[:, :16] * s[:16])[None], v[None, :16], learnable=False).dense()[0]
    assert float((shift - best).norm() / shift.norm()) == pytest.approx(math.sqrt(1 - 16 / 784))
    grid = Grid.of_shifts(stencil(), space=(4, 5))
    assert torch.equal(grid.dense(), stencil().dense((4, 5)))


@pytest.mark.parametrize("derivative", ["spectral", "bilinear"])
def test_a_grid_holds_the_rotation_of_images(derivative: str) -> None:
    """Central differences are four taps; FFT derivatives are not local."""
    rotation = ImageAlgebra(("rotation",), derivative).dense((5, 5), dtype=torch.float64)  # type: ignore[arg-type]
    local = stencil().dense((5, 5), dtype=torch.float64).sum(0) > 0
    assert bool((rotation[0][~local] == 0).all()) == (derivative == "bilinear")


@pytest.mark.parametrize(("derivative", "tolerance"), [("spectral", 5e-3), ("bilinear", 0.12)])
@pytest.mark.parametrize("space", [(24, 24), (31, 20)])
def test_rotations_of_a_smooth_image(derivative: str, tolerance: float, space: Space) -> None:
    """exp(t L) turns a blob about the image's centre by t, at any resolution."""
    y, x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in space)

    def blob(cy: float, cx: float) -> Tensor:
        return torch.exp(-((y[:, None] - cy) ** 2 + (x - cx) ** 2) / 8)[None, None]

    rotation = ImageAlgebra(("rotation",), derivative)  # type: ignore[arg-type]
    angle = 0.6
    turned = rotation.expm_apply(torch.tensor([angle]), blob(0.0, 4.0))
    expected = blob(4.0 * math.sin(angle), 4.0 * math.cos(angle))
    assert float((turned - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(
    ("name", "moved"), [("translation_x", (0.0, 1.5)), ("translation_y", (1.5, 0.0)), ("scaling", None)]
)
def test_translations_and_scaling_of_a_smooth_image(name: str, moved: tuple[float, float] | None) -> None:
    y = x = torch.arange(32, dtype=torch.float64) - 15.5

    def blob(cy: float, cx: float, width: float) -> Tensor:
        return torch.exp(-((y[:, None] - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))[None, None]

    t = 0.3 if moved is None else 1.5
    done = ImageAlgebra((name,)).expm_apply(torch.tensor([t]), blob(0, 0, 2.0))
    expected = blob(0, 0, 2 * math.exp(0.3)) if moved is None else blob(*moved, 2.0)
    assert float((done - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.parametrize("name", ["so(2)", "so(3)", "so(1,3)"])
def test_known_algebras_are_the_groups_generators(name: str) -> None:
    torch.testing.assert_close(algebra(name).dense().double(), Group.parse(name).generators)


def test_shifts_commute_under_circular_padding_only() -> None:
    """A correction to the paper's sec. 2: with other paddings shifts are no basis of an Abelian algebra."""

    def largest_bracket(mode: str) -> float:
        s = stencil(padding_mode=mode).dense((4, 5), dtype=torch.float64)
        products = torch.einsum("aij,bjk->abik", s, s)
        return float((products - products.transpose(0, 1)).abs().max())

    assert largest_bracket("circular") == 0
    for mode in ("zeros", "replicate", "reflect"):
        assert largest_bracket(mode) > 0


def test_a_flat_shift_wraps_rows_and_a_grid_shift_does_not() -> None:
    """A correction to the paper's eq. 11: shifting the flattened image by one moves row ends to the next row."""
    right = Shifts((1, 2), padding=((0, 0), (1, 0))).dense((3, 4))[0]
    flat = torch.eye(12).roll(1, 0)
    differing = (right != flat).any(1).nonzero().flatten().tolist()
    assert differing == [0, 4, 8]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Shifts((3, 3), padding_mode="mirror"), "padding_mode='mirror' is unknown"),
        (lambda: Shifts((3,), padding_mode="circular", transposed=True), "pads with zeros only"),
        (lambda: Shifts((3, 3, 3, 3)), "a kernel of 4 axes"),
        (lambda: stencil().dense(), "acts on a space of any size; say which"),
        (lambda: Shifts((5,)).dense((3,)), "does not fit"),
        (lambda: LowRank.random(2, (4,), rank=0), "rank=0"),
        (lambda: Dense(noise(1, 2, 3), space=(2, 2)), "generators of 2 x 3 do not fit"),
        (lambda: Dense(noise(1, 3, 3)).act(noise(1, 2, 4)), "pass \\(batch, channels, 3\\)"),
        (lambda: Dense(noise(1, 3, 3)).dense((4,)), "not \\(4,\\); pass that"),
        (lambda: Dense(noise(1, 2, 3)).expm_apply(torch.ones(1), noise(1, 1, 3)), "have no exponential"),
        (lambda: Grid(noise(2, 8), stencil()), "pass \\(count, 9\\)"),
        (lambda: ImageAlgebra(("shear",)), "the known ones are rotation"),
        (lambda: algebra("S(3)"), "is a finite group"),
        (lambda: Dense(noise(0, 2, 2)), "at least one"),
    ],
)
def test_bad_input_is_one_sentence(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]
