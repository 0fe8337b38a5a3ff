"""Fold is exact for what a layer can express and never further from the relaxed layer than drop; fit is never worse."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import layouts, random, seeds

from relaxify import Group, Representation, irreps
from relaxify.intertwiners import fit_updates, fold_updates, merge_pairs, project_to_intertwiners
from relaxify.representations import slices
from relaxify.sites import Path

SPECS = ["1x0e", "2x0e+3x1o", "2x1o+1x2e+3x1o", "1x0o+2x1e+1x1o"]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Representation, Representation, tuple[Path, ...]]:
    """A layer with a path, or two, for each pair of equal irreps, as o3.Linear has, with random scales and orders."""
    group = Group.parse("O(3)")
    rep_in, rep_out = (irreps(group, draw(st.sampled_from(SPECS)), draw(layouts)) for _ in range(2))
    paths, offset = [], 0
    for i, out in enumerate(rep_out.blocks):
        for j, into in enumerate(rep_in.blocks):
            for _ in range(draw(st.integers(0, 2)) if out.name == into.name else 0):
                scale = draw(st.sampled_from([1.0, -0.3, 2.5]))
                paths.append(Path("weight", offset, j, i, scale, draw(st.sampled_from(["in_out", "out_in"]))))
                offset += out.multiplicity * into.multiplicity
    return rep_in, rep_out, tuple(paths)


def dense(layer: tuple[Representation, Representation, tuple[Path, ...]], updates: list[torch.Tensor]) -> torch.Tensor:
    """sum over paths of scale * w (x) identity, as a dense matrix."""
    rep_in, rep_out, paths = layer
    result = torch.zeros(rep_out.dim, rep_in.dim, dtype=torch.float64)
    for path, update in zip(paths, updates, strict=True):
        out, into = rep_out.blocks[path.block_out], rep_in.blocks[path.block_in]
        shape = (out.multiplicity, into.multiplicity)
        w = update.view(shape) if path.order == "out_in" else update.view(shape[::-1]).mT
        rows, columns = list(slices(rep_out.blocks))[path.block_out], list(slices(rep_in.blocks))[path.block_in]
        pairs = torch.einsum("vu,ij->vuij", path.scale * w, torch.eye(out.dimension, dtype=torch.float64))
        result[rows, columns] += merge_pairs(pairs, out, into)
    return result


Layer = tuple[Representation, Representation, tuple[Path, ...]]


def test_an_intertwiner_is_its_own_projection_where_no_basis_is_made() -> None:
    group, made = Group.parse("SO(3)"), torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    turn, vectors = torch.linalg.qr(noise(12, 12)).Q, Representation.defining(group, 4)
    dense_actions = vectors.act(torch.eye(12, dtype=torch.float64)).mT
    # as a fit leaves them
    rep = Representation.of(group, "fitted", 1, turn @ dense_actions @ turn.mT + 1e-10 * noise(3, 12, 12))
    w = turn @ torch.kron(noise(4, 4), torch.eye(3, dtype=torch.float64)) @ turn.mT
    torch.testing.assert_close(project_to_intertwiners(w, rep, rep), w, rtol=1e-6, atol=1e-6)


@given(layers(), seeds)
def test_fold_is_exact_for_what_the_layer_expresses(layer: Layer, seed: int) -> None:
    rep_in, rep_out, paths = layer
    sizes = [rep_out.blocks[p.block_out].multiplicity * rep_in.blocks[p.block_in].multiplicity for p in paths]
    target = dense(layer, [random(size, seed=seed + k) for k, size in enumerate(sizes)])
    folded = dense(layer, fold_updates(target, rep_in.blocks, rep_out.blocks, paths))
    torch.testing.assert_close(folded, target, atol=1e-10, rtol=0)


@given(layers(), seeds)
def test_fold_is_the_nearest_expressible_map(layer: Layer, seed: int) -> None:
    """The remainder is orthogonal to everything the paths express, so fold is never further than drop."""
    rep_in, rep_out, paths = layer
    w = random(rep_out.dim, rep_in.dim, seed=seed)
    updates = fold_updates(w, rep_in.blocks, rep_out.blocks, paths)
    folded = dense(layer, updates)
    other = dense(layer, [random(len(update), seed=seed + 1) for update in updates])
    assert abs(float(((w - folded) * other).sum())) < 1e-9
    assert (w - folded).norm() <= w.norm() + 1e-12


@given(layers(), seeds)
def test_fold_keeps_all_of_the_intertwiner_where_every_pair_has_a_path(layer: Layer, seed: int) -> None:
    rep_in, rep_out, paths = layer
    joined = {(p.block_out, p.block_in) for p in paths}
    complete = all(
        (i, j) in joined
        for i, out in enumerate(rep_out.blocks)
        for j, into in enumerate(rep_in.blocks)
        if out.name == into.name
    )
    w = random(rep_out.dim, rep_in.dim, seed=seed)
    gap = dense(layer, fold_updates(w, rep_in.blocks, rep_out.blocks, paths)) - project_to_intertwiners(w, rep_in, rep_out)
    assert (float(gap.norm()) < 1e-10) == complete


@given(layers(), seeds)
def test_in_output_rms_fold_is_never_further_than_drop_when_the_moment_is_invariant(layer: Layer, seed: int) -> None:
    rep_in, rep_out, paths = layer
    w, root = random(rep_out.dim, rep_in.dim, seed=seed), random(rep_in.dim, rep_in.dim, seed=seed + 1)
    moment = project_to_intertwiners(root @ root.mT, rep_in, rep_in)
    complete = dense(layer, fold_updates(w, rep_in.blocks, rep_out.blocks, paths))
    projection = project_to_intertwiners(w, rep_in, rep_out)
    if torch.allclose(complete, projection, atol=1e-10):
        assert output_square(w - complete, moment) <= output_square(w, moment) + 1e-9


def output_square(w: torch.Tensor, moment: torch.Tensor) -> float:
    return float(((w @ moment) * w).sum())


@given(layers(), seeds, st.integers(1, 30))
def test_fit_is_nearest_on_the_data(layer: Layer, seed: int, count: int) -> None:
    """No worse than drop, than fold, or than fit perturbed; also when the data do not span the inputs."""
    rep_in, rep_out, paths = layer
    w, x = random(rep_out.dim, rep_in.dim, seed=seed), random(count, rep_in.dim, seed=seed + 1)
    moment, blocks = x.mT @ x / count, (rep_in.blocks, rep_out.blocks)
    updates = fit_updates(w, *blocks, paths, moment)
    best = output_square(w - dense(layer, updates), moment)
    nudged = [update + 1e-3 * random(len(update), seed=seed + 2) for update in updates]
    for other in ([torch.zeros_like(u) for u in updates], fold_updates(w, *blocks, paths), nudged):
        assert best <= output_square(w - dense(layer, other), moment) + 1e-9
