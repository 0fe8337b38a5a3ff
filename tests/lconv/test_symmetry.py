"""Symmetries found in data, in functions and in trained L-convs where the answer is known; and none where there is none."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import unchecked
from torch import Tensor, nn

from relaxify import Group
from relaxify.lconv import (
    Dense,
    Flow,
    ImageAlgebra,
    LConv,
    LowRank,
    Symmetry,
    Verdict,
    algebra,
    generators,
    lconvify,
    symmetries_of,
    symmetries_of_model,
    symmetries_of_moments,
    symmetry_of_pairs,
)
from relaxify.lconv.symmetry.by_name import named
from relaxify.lconv.symmetry.classical import names_of
from relaxify.lconv.symmetry.harmonics import gegenbauer
from relaxify.lconv.symmetry.moments import SecondMoments, regression, roots
from relaxify.lconv.symmetry.subspaces import overlap


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moments(d: int, seed: int) -> Tensor:
    """With condition number 9."""
    frame = torch.linalg.qr(noise(d, d, seed=seed)).Q
    return frame @ torch.diag(torch.linspace(1, 9, d, dtype=torch.float64)) @ frame.mT


def by_svd(H: Tensor, C: Tensor) -> Tensor:
    """The null space of LC eq. 13 by brute force on all (L, L_c): the L of it."""
    d, c = len(H), len(C)
    rows = []
    for unit in torch.eye(d * d + c * c, dtype=H.dtype):
        L, L_c = unit[: d * d].reshape(d, d), unit[d * d :].reshape(c, c)
        rows.append(torch.cat([(L @ H + H @ L.mT).flatten(), (L_c @ C + C @ L.mT).flatten()]))
    _, values, vectors = torch.linalg.svd(torch.stack(rows).mT, full_matrices=True)
    rank = int((values > 1e-10 * values[0]).sum())
    return vectors[rank:, : d * d].reshape(-1, d, d)


@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 99))
def test_theorem_1_on_population_moments(d: int, c: int, seed: int) -> None:
    """Dimension d(d-1)/2, and with labels so(c) + so(d - c); L H + H L^T = 0 and L_c C + C L^T = 0."""
    H, C = second_moments(d, seed), noise(c, d, seed=seed + 1)
    c = min(c, d)
    plain, labelled = symmetries_of_moments(H), symmetries_of_moments(H, C[:c])
    assert plain.dimension == d * (d - 1) // 2
    assert labelled.dimension == c * (c - 1) // 2 + (d - c) * (d - c - 1) // 2
    for L in plain.generators:
        torch.testing.assert_close(L @ H, -(H @ L.mT), atol=1e-9, rtol=0)
    assert labelled.output_generators is not None
    for L, L_c in zip(labelled.generators, labelled.output_generators, strict=True):
        torch.testing.assert_close(L @ H, -(H @ L.mT), atol=1e-9, rtol=0)
        torch.testing.assert_close(L_c @ C[:c], -(C[:c] @ L.mT), atol=1e-8, rtol=0)


def test_the_benchmark_of_theorem_1() -> None:
    """d = 6, c = 2: dimensions 15 and 7, the subspace to 1e-11 degrees of the null space by brute force."""
    H, C = second_moments(6, 0), noise(2, 6, seed=1)
    found = symmetries_of_moments(H, C)
    assert (symmetries_of_moments(H).dimension, found.dimension) == (15, 7)
    assert max(found.overlap(by_svd(H, C)).angles) < 1e-11
    root, inverse = roots(H)
    so = torch.stack([root @ L @ inverse for L in regression(SecondMoments(torch.eye(6).double())).whitened])
    assert max(symmetries_of_moments(H).overlap(so).angles) < 1e-11
    assert found.names == ("so(4) + so(2)",)
    form = symmetries_of_moments(H).form
    assert form is not None
    assert str(form.signature) == "6+/0-"
    torch.testing.assert_close(form.matrix, H.inverse() / H.inverse().norm())
    assert not found.found
    assert found.name is None


@pytest.mark.parametrize(("n", "largest"), [(1000, 8.0), (10000, 2.5)])
def test_theorem_1_on_samples(n: int, largest: float) -> None:
    """Within the stated angles of the population's algebra, and the confidence angle holds it."""
    A = noise(2, 6, seed=1)
    H = second_moments(6, 0)
    root, _ = roots(H)
    population = symmetries_of_moments(H), symmetries_of_moments(H, A @ H)
    inside, total = 0, 0
    for seed in range(3):
        X = noise(n, 6, seed=seed) @ root
        Y = X @ A.mT + 0.3 * noise(n, 2, seed=seed + 100)
        of_labels = symmetries_of(X, Y, statistics="second_moments", resamplings=99)
        for truth, found in zip(population, (symmetries_of(X), of_labels), strict=True):
            assert found.dimension == truth.dimension
            angle = max(overlap(found.generators, truth.generators).angles)
            assert angle < largest
            assert found.confidence_angle is not None
            inside, total = inside + (angle < found.confidence_angle), total + 1
            assert found.confidence_angle < 2 * largest
            # a thousand are enough for the angle, and too few to know of a break of 0.15, or of 0.25 of what labels say
            assert found.verdict is (Verdict.FOUND if n > 1000 else Verdict.TOO_FEW), found.reason
            assert found.held_out_defect is not None
            assert found.held_out_defect < 0.2
    assert inside >= total - 1


def test_labels_that_do_not_turn_along_break_the_symmetry() -> None:
    X = noise(2000, 4)
    linear, bent = X @ noise(2, 4, seed=1).mT, (X @ noise(2, 4, seed=1).mT).relu()
    assert symmetries_of(X, linear, statistics="second_moments", resamplings=99).name == "so(2) + so(2)"
    assert not symmetries_of(X, bent, statistics="second_moments", resamplings=99).found


def test_labels_that_know_nothing_leave_all_of_so() -> None:
    X = noise(2000, 4)
    assert symmetries_of(X, noise(2000, 2, seed=9), statistics="second_moments", resamplings=0).dimension == 6


def product(metric: Tensor) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        g = torch.einsum("nad,de,nbe->nab", x, metric.to(x), x) / 4
        return torch.sin(g[:, 0, 0]) + torch.tanh(g[:, 0, 1]) + torch.cos(g[:, 1, 1])

    return f


@pytest.mark.parametrize(("name", "signs", "form"), [("SO(3)", "0+/3-", "3+/0-"), ("SO(1,3)", "3+/3-", "3+/1-")])
def test_a_function_of_invariants_has_their_group(name: str, signs: str, form: str) -> None:
    d = 3 if name == "SO(3)" else 4
    metric = torch.diag(torch.tensor([1.0] * 3 if d == 3 else [-1.0, 1.0, 1.0, 1.0]))
    found = symmetries_of_model(product(metric), noise(1000, 2, d))
    assert found.found
    assert found.name == name.lower()
    assert found.dimension == len(Group.parse(name).generators)
    result = found.overlap(name)
    assert result.value > 1 - 1e-9
    assert result.chance == found.dimension / d**2
    assert str(found.killing_signature) == signs
    assert found.form is not None
    assert str(found.form.signature) == form
    assert found.held_out_defect is not None
    assert found.held_out_defect < 1e-9
    assert found.gap is not None
    assert found.gap > 1e6
    text = "\n".join(found.lines({name: name}))
    for words in (f"symmetry {name.lower()}", f"Killing form {signs}", "overlap 1.0000 (chance 0.3"):
        assert words in text


def test_a_trained_network_shows_the_group_it_was_trained_on() -> None:
    """With a short training; relaxify_examples.lconv.discovery does both groups over five seeds."""
    from relaxify_examples.lconv.discovery import symmetry_of_a_network

    found = symmetry_of_a_network("so(3)", seed=0, steps=600)
    assert (found.name, found.dimension) == ("so(3)", 3)
    assert found.overlap("SO(3)").value > 0.999
    assert str(found.killing_signature) == "0+/3-"


def test_an_equivariant_function_turns_its_outputs_along() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.linalg.cross(x[:, 0], x[:, 1]) + x[:, 0] * (x[:, 0] * x[:, 1]).sum(-1, keepdim=True)

    found = symmetries_of_model(f, noise(800, 2, 3), equivariant=True)
    assert found.name == "so(3)"
    assert found.output_generators is not None
    # this function's outputs are vectors, so they turn by the same matrices
    torch.testing.assert_close(found.output_generators, found.generators, atol=1e-8, rtol=0)


def test_functions_without_a_symmetry_are_said_to_have_none() -> None:
    """50 random networks."""
    false = 0
    for seed in range(50):
        torch.manual_seed(seed)
        d = 2 + seed % 3
        model = nn.Sequential(nn.Linear(d, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
        for parameter in model.parameters():
            parameter.data.mul_(2)
        found = symmetries_of_model(model, torch.randn(600, d))
        false += found.found
        if not found.found:
            assert found.name is None
            assert "no symmetry" in str(found)
    assert false <= 2


def of_two_vectors(x: Tensor) -> Tensor:
    a, b = x[:, 0], x[:, 1]
    return torch.stack([(a * b).sum(-1), a.norm(dim=-1).sin(), b.square().sum(-1), (a - b).norm(dim=-1)], 1)


def test_each_output_of_a_sample_is_an_equation() -> None:
    """Nine unknowns, and five samples of four outputs."""
    found = symmetries_of_model(of_two_vectors, noise(5, 2, 3))
    assert found.name == "so(3)"
    assert found.overlap("so(3)").value > 1 - 1e-9
    with pytest.raises(ValueError, match="pass at least 5"):
        symmetries_of_model(of_two_vectors, noise(4, 2, 3))


def test_few_equations_find_only_what_is_kept_nearly_exactly() -> None:
    false = 0
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
        false += symmetries_of_model(model, torch.randn(8, 2)).found
    assert false <= 1


def test_a_clear_gap_of_an_algebra_may_start_higher() -> None:
    """.12, .21 and .23, and then 1: not below a fifth, but the brackets close, on other samples too; chance does not."""

    def f(x: Tensor) -> Tensor:
        return x.square().sum(-1) + 0.1 * (3 * x).sin().sum(-1)

    found = symmetries_of_model(f, noise(600, 3))
    assert found.name == "so(3)"
    assert found.spectrum is not None
    assert found.spectrum[2] > 0.2
    assert not symmetries_of_model(f, noise(600, 3), largest_defect=0.1).found


@pytest.mark.parametrize(("name", "power"), [("e(2)", 1), ("sim(2)", 0)])
def test_functions_of_points_may_be_asked_about_translations(name: str, power: int) -> None:
    def f(x: Tensor) -> Tensor:
        a, b, c = ((x[:, i] - x[:, j]).norm(dim=-1) for i, j in ((0, 1), (1, 2), (0, 2)))
        return (a / b + (c / a).tanh()) * a**power

    found = symmetries_of_model(f, 3 * noise(100, 3, 2) + 50, affine=True)
    assert found.name == name
    assert found.overlap(name).value > 1 - 1e-6
    assert symmetries_of_model(f, noise(100, 3, 2)).name == ("so(2)" if power else "so(2) + scaling")


@pytest.mark.parametrize("name", ["so(3)", "so(1,3)", "sl(2)"])
def test_the_generators_of_l_convs(name: str) -> None:
    found = generators(nn.Sequential(LConv(algebra(name), 3, 3)))["0"]
    assert found.name == name
    assert found.overlap(name).value == pytest.approx(1)


def test_generators_mean_nothing_beside_the_identity_or_where_they_are_not_used() -> None:
    so3 = algebra("so(3)").matrices
    shifted = Dense(torch.cat([so3 + 2 * torch.eye(3), torch.randn(1, 3, 3)]))
    layer = LConv(shifted, 2, 2)
    layer.weight.data[3] = 0
    found = generators(layer)[""]
    assert (found.name, found.dimension) == ("so(3)", 3)


def test_untrained_generators_are_no_algebra() -> None:
    torch.manual_seed(0)
    found = generators(LConv(LowRank.random(3, (12,), rank=2), 1, 4))[""]
    assert not found.found
    assert "do not stay" in found.reason
    one = generators(Flow(Dense.random(1, (4,))))[""]
    assert not one.found
    assert "one direction is an algebra whatever it is" in one.reason


def test_the_generators_of_a_convolution_are_its_translations() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")
    found = generators(lconvify(conv), space=(6,))[""]
    assert found.names == ("abelian(2)",)


def test_a_ring_is_learned_from_its_flow() -> None:
    """Low loss with two steps is another generator; the exponential finds the right one."""
    from relaxify_examples.lconv.discovery import ring

    exact, coarse = ring(0, "exp", points=7, updates=250), ring(0, 2, points=7, updates=600)
    assert exact.overlap.value > 0.99
    assert exact.overlap.chance < 0.03
    assert coarse.loss < 1e-4
    assert coarse.overlap.value < 0.96
    assert coarse.overlap.value < exact.overlap.value


def test_a_report_makes_layers_and_flows() -> None:
    found = symmetries_of_moments(torch.eye(3))
    layer = LConv(found.as_operators(), 2, 2)
    assert generators(layer)[""].name == "so(3)"
    path = found.flow(torch.tensor([1.0, 2.0, 2.0]), [0.0, 0.5, 1.0])
    torch.testing.assert_close(path.norm(dim=-1), torch.full((3,), 3.0))
    none = Symmetry(torch.zeros(0, 3, 3), Verdict.NONE, "nothing.", "test")
    assert "no symmetry" in str(none)
    with pytest.raises(ValueError, match="no generators to build on"):
        none.as_operators()


def test_arrays_are_samples_as_tensors_are() -> None:
    X = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    of_tensors, of_arrays = (symmetries_of(*data) for data in ((X, X[:, :1]), (X.numpy(), X[:, :1].numpy())))
    assert torch.equal(of_tensors.generators, of_arrays.generators)


def test_bad_input_is_one_sentence() -> None:
    X = noise(50, 3)
    with pytest.raises(ValueError, match="one row for each in both"):
        symmetries_of(X, noise(49, 2))
    with pytest.raises(ValueError, match="more samples"):
        symmetries_of(noise(3, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        symmetries_of(X / 0)
    with pytest.raises(ValueError, match="singular"):
        symmetries_of(X[:, [0, 1, 0]])
    with pytest.raises(ValueError, match="306,936 dimensions, too many to look for all; pass a family"):
        symmetries_of(noise(800, 784), statistics="second_moments")
    with pytest.raises(ValueError, match="cannot tell a confidence of 95 %"):
        symmetries_of(X, resamplings=98)
    with pytest.raises(ValueError, match="too few for 9 unknowns"):
        symmetries_of_model(lambda x: x.sum(-1), X[:17])
    with pytest.raises(ValueError, match="no finite gradient"):
        symmetries_of_model(lambda x: (x * 0).sum(-1), X)
    with pytest.raises(ValueError, match="has no L-conv"):
        generators(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="span no algebra"):
        generators(LConv(Dense(noise(2, 3, 4).float()), 1, 1, identity=False))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("call", ["module", "function", "method", "partial"])
def test_modules_are_run_in_eval_mode_and_stay_as_they_are(call: str) -> None:
    torch.manual_seed(0)
    model, X = normalised(), torch.randn(200, 3)
    calls = {"function": lambda x: 2 * model(x), "method": model.forward, "partial": functools.partial(model)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = symmetries_of_model(calls.get(call, model), X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(found.generators, symmetries_of_model(copy.deepcopy(model).eval(), X).generators)


def test_arrays_and_integers_are_samples() -> None:
    X = torch.randn(400, 3, dtype=torch.float64)
    assert symmetries_of_model(lambda x: x.square().sum(-1), X.numpy()).name == "so(3)"
    assert symmetries_of_model(lambda x: x.square().sum(-1), (10 * X).round().long()).name == "so(3)"


UNSUITED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "detached": (lambda x: x.detach().sum(-1), "no gradient with respect to X; leave out what ends gradients"),
    "compared": (lambda x: (x > 0).sum(-1), "no gradient with respect to X"),
    "numpy": (lambda x: x.detach().numpy(), "returns a ndarray; return a tensor"),
    "of numpy": (lambda x: x.numpy() ** 2, "does not run on tensors with gradients (.*); leave out"),
    "one number": (lambda x: x.sum(), "one row for each"),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_a_function_without_gradients_is_told_so(name: str) -> None:
    function, says = UNSUITED[name]
    with pytest.raises(ValueError, match=says):
        symmetries_of_model(function, torch.randn(100, 3))


def test_a_function_s_own_errors_are_its_own_and_it_may_write_to_its_input() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        symmetries_of_model(nn.Linear(4, 1), torch.randn(100, 3))
    assert symmetries_of_model(lambda x: x.mul_(2).square().sum(-1), torch.randn(400, 3)).name == "so(3)"


def test_samples_have_rows() -> None:
    with pytest.raises(ValueError, match=r"shape \(400,\); pass samples in rows"):
        symmetries_of_model(lambda x: x, torch.randn(400))
    with pytest.raises(ValueError, match=r"shape \(0, 3\) and is empty"):
        symmetries_of_model(lambda x: x, torch.randn(0, 3))
    with pytest.raises(ValueError, match="is complex"):
        symmetries_of_model(lambda x: x, torch.randn(400, 3, dtype=torch.complex64))


NAMES = {
    "so(3) + so(2)": 5, "so(3) + scaling": 3, "scaling": 4, "so(2) + scaling": 2, "so(4) + scaling": 4, "so(3) + so(3)": 6,
    "so(3) + so(2) + scaling": 5, "so(1,3) + scaling": 4, "su(2) + scaling": 4, "sp(4) + scaling": 4, "u(2)": 4, "u(3)": 6,
    "gl(2)": 2, "gl(3)": 3, "so(1,1)": 2, "so(1,1) + scaling": 2, "sl(2) + so(2)": 4, "e(2)": 3, "so(3)": 6, "sp(4)": 4,
    "so(3) + so(1,1)": 5, "so(5)": 5, "so(2,3)": 5, "su(3)": 6, "so(2) + so(2)": 5, "so(3) + so(2) + so(2)": 7,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_a_named_algebra_has_its_name_in_any_basis(name: str, seed: int) -> None:
    matrices = named(name, NAMES[name])
    generator = torch.Generator().manual_seed(seed)
    frame = torch.eye(NAMES[name]).double() + 0.3 * torch.randn(*matrices.shape[1:], generator=generator).double()
    mixed = torch.randn(len(matrices), len(matrices), generator=generator).double() + 2 * torch.eye(len(matrices)).double()
    moved = torch.einsum("kn,nab->kab", mixed, frame @ matrices @ torch.linalg.inv(frame))
    assert names_of(moved)[0] == name


def test_sums_are_of_parts_and_of_how_the_centre_acts() -> None:
    """Isomorphic to u(2), all three."""
    so3, unit = named("so(3)", 6), torch.eye(6, dtype=torch.float64)
    turn = torch.kron(torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double(), torch.eye(3).double())
    assert names_of(torch.cat([so3, turn[None]])) == ("so(3) + so(2)",)
    assert names_of(torch.cat([so3, unit[None]])) == ("so(3) + scaling",)
    assert names_of(named("u(2)", 4)) == ("u(2)",)


@pytest.mark.parametrize("name", ["abelian(2)", "so(0)", "sp(3)", "C(4)", "so(3) + nothing", ""])
def test_names_of_no_algebra_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="names no algebra"):
        named(name, 3)


def test_names_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="acts on 3 dimensions, and there are 2"):
        named("so(3)", 2)
    with pytest.raises(ValueError, match="acts on 2 dimensions, and there are 0"):
        named("so(2) + ignored(1)", 1)
    with pytest.raises(ValueError, match="acts on 3 dimensions, and there are 5"):
        named("e(2)", 5)


def test_coordinates_that_a_name_does_not_reach_stay_as_they_are() -> None:
    beside = named("so(3)", 5)
    assert names_of(beside)[0] == "so(3)"
    assert not beside[:, 3:].any()
    assert not beside[..., 3:].any()


def test_labels_of_high_frequency_break_a_circle() -> None:
    angle = 2 * torch.pi * uniform(2000, 1)
    circle = torch.cat([angle.cos(), angle.sin()], 1)
    assert not symmetries_of(circle, (8 * angle).sin(), statistics="second_moments", resamplings=99).found


@given(st.integers(2, 7), st.floats(-0.99, 0.99))
def test_zonal_functions_are_those_of_the_gegenbauer_polynomials(d: int, t: float) -> None:
    angle = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for k, (value, slope) in enumerate(gegenbauer(angle, d, 9)):
        lam = d / 2 - 1
        expected = scipy.special.eval_chebyt(k, t) if d == 2 else scipy.special.eval_gegenbauer(k, lam, t)
        scale = 1.0 if d == 2 else scipy.special.eval_gegenbauer(k, lam, 1.0)
        assert float(value.detach()) == pytest.approx(expected / scale, abs=1e-9)
        derivative = torch.autograd.grad(value, angle, retain_graph=True)[0] if k else torch.zeros(())
        assert float(slope.detach()) == pytest.approx(float(derivative), abs=1e-8)


def test_a_page_marks_the_gap_and_shows_images_as_they_flow() -> None:
    X = noise(8000, 4)
    X[:, 3] = X[:, 3].exp()
    page = symmetries_of(X).to_html(X)
    assert "<h1>Symmetry so(3)" in page
    assert "gap ×" in page
    assert page.count("<polygon") == 3 * 5
    images = noise(64, 2, 6, 6)
    still = symmetries_of(images, generators=ImageAlgebra(("rotation",))).to_html(images)
    assert "<h1>Symmetry" not in still
    assert "http" not in still.replace("http://www.w3.org", "")


def test_a_page_of_what_is_not_kept_says_so_first() -> None:
    page = symmetries_of(noise(3000, 3).exp()).to_html()
    assert "None is kept." in page
    assert page.index("verdict broken") < page.index("Spectrum")


NO_SAMPLES = {
    "complex": (torch.ones(9, 2, dtype=torch.complex64), {}, "X is of complex numbers; pass real ones"),
    "list": ([[1.0, 2.0]] * 9, {}, "X is a list; pass a tensor or an array"),
    "nothing": (None, {}, "X is a NoneType; pass a tensor"),
    "texts": (np.array([["a", "b"]] * 9), {}, "X is an array of <U1; pass numbers"),
    "no columns": (torch.ones(9, 0), {}, "shape (9, 0) and no entries"),
    "too large": (torch.randn(9, 2).double() * 1e200, {}, "too large to be squared"),
    "too small": (torch.randn(9, 2).double() * 1e-200, {}, "too small to be squared"),
    "statistics": (torch.randn(9, 2), {"statistics": "moments"}, "statistics='moments' is unknown; pass 'labels'"),
    "resamplings": (torch.randn(9, 2), {"resamplings": -1}, "resamplings=-1: pass at least 99"),
}


@pytest.mark.parametrize("problem", NO_SAMPLES)
def test_what_are_no_samples(problem: str) -> None:
    samples, options, part = NO_SAMPLES[problem]
    with unchecked(), pytest.raises(ValueError, match=re.escape(part)):
        symmetries_of(samples, **options)


@pytest.mark.parametrize("size", [2, 3])
def test_a_shear_is_no_rotation(size: int) -> None:
    """Rounding gives it eigenvalues of its root's size, imaginary ones as often as real ones."""
    random = torch.Generator().manual_seed(0)
    for _ in range(10):
        X = torch.randn(200, size, generator=random, dtype=torch.float64)
        shear = torch.eye(size, dtype=torch.float64)
        shear[0, 1] = 0.5
        assert symmetry_of_pairs(X, X @ shear.mT).name == "abelian(1)"
