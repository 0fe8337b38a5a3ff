"""The N-body simulator: the benchmark's own trajectories, the laws of motion, and a cache that cannot go wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relaxify_examples.nbody import simulate
from relaxify_examples.nbody.simulate import ChargedParticles, Trajectories, cache_folder, initial_states, integrate, load

SHORT = ChargedParticles(frame_in=0, frame_out=1, frame_every=10)

# Printed by the simulator that SEGNN's authors published, run with its own settings and seed 43: the first particle of
# each split's first trajectory (frame 30, velocity there, frame 40) and the charges of all five.
PUBLISHED = {
    "train": (
        [2.989116317167, 1.769370120447, -1.171294279538],
        [1.133811040667, 0.395680612564, -0.226606573089],
        [4.165499836765, 2.191309138416, -1.38261880236],
        [-1, 1, -1, -1, -1],
    ),
    "valid": (
        [-0.195074832945, 2.291606973441, -0.330086099987],
        [-0.061465481196, 1.30098487026, -0.317645998677],
        [-0.384975644676, 3.534515648713, -0.65009290936],
        [-1, 1, -1, -1, -1],
    ),
    "test": (
        [1.729897749271, 0.763515361375, 0.327371370012],
        [0.167199381787, 0.731500977449, -0.839126500667],
        [2.20285458912, 0.962163448055, -0.679564197523],
        [1, 1, -1, -1, 1],
    ),
}


def arrays(data: Trajectories) -> dict[str, np.ndarray]:
    return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}


def same(a: Trajectories, b: Trajectories) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(arrays(a).values(), arrays(b).values(), strict=True))


@pytest.mark.parametrize("split", PUBLISHED)
def test_trajectories_are_the_published_ones(split: simulate.Split) -> None:
    positions, velocities, targets, charges = PUBLISHED[split]
    data = simulate.simulate(ChargedParticles(), split, 1)
    for measured, published in ((data.positions, positions), (data.velocities, velocities), (data.targets, targets)):
        np.testing.assert_allclose(measured[0, 0], published, rtol=0, atol=8e-6)
    np.testing.assert_array_equal(data.charges[0, :, 0], charges)


def test_step_is_coulombs_law_written_out() -> None:
    x, v, q = initial_states(ChargedParticles(), 0, 3)
    measured_x, measured_v = integrate(ChargedParticles(), x, v, q, 150)
    x, v = x.copy(), v.copy()
    for _ in range(150):
        difference = x[:, :, None] - x[:, None]
        distance = np.linalg.norm(difference, axis=-1) + np.eye(5)
        v += 1e-3 * np.einsum("ti,tj,tij,tijk->tik", q, q, distance**-3.0, difference).clip(-100, 100)
        x += 1e-3 * v
    np.testing.assert_allclose(measured_x, x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(measured_v, v, rtol=0, atol=1e-10)


def test_forces_are_cut() -> None:
    x = np.array([[[0.0, 0.0, 0.0], [1e-3, 0.0, 0.0]]])
    _, v = integrate(ChargedParticles(particles=2), x, np.zeros((1, 2, 3)), np.ones((1, 2)), 1)
    np.testing.assert_allclose(v[0], [[-0.1, 0, 0], [0.1, 0, 0]])


def test_momentum_is_conserved_and_inputs_are_left_alone() -> None:
    x, v, q = initial_states(ChargedParticles(), 0, 20)
    before = x.copy(), v.copy()
    _, later = integrate(ChargedParticles(max_force=np.inf), x, v, q, 500)
    np.testing.assert_allclose(later.sum(axis=1), v.sum(axis=1), atol=1e-9)
    np.testing.assert_array_equal(before, (x, v))


def test_motion_commutes_with_rotations_reflections_and_translations() -> None:
    rng = np.random.default_rng(0)
    g, shift = np.linalg.qr(rng.standard_normal((3, 3)))[0], rng.standard_normal(3)
    x, v, q = initial_states(ChargedParticles(), 0, 4)
    for sign in (1, -1):
        moved = integrate(ChargedParticles(), x @ (sign * g).T + shift, v @ (sign * g).T, q, 200)
        still = integrate(ChargedParticles(), x, v, q, 200)
        np.testing.assert_allclose(moved[0], still[0] @ (sign * g).T + shift, atol=1e-9)
        np.testing.assert_allclose(moved[1], still[1] @ (sign * g).T, atol=1e-9)


def test_a_trajectory_does_not_depend_on_how_many_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    many = simulate.simulate(SHORT, "train", 7)
    monkeypatch.setattr(simulate, "_CHUNK", 2)
    few = simulate.simulate(SHORT, "train", 5)
    for name, values in arrays(few).items():
        np.testing.assert_array_equal(values, arrays(many)[name][:5])


def test_splits_and_seeds_share_no_trajectory() -> None:
    stacks = [simulate.simulate(SHORT, split, 20).positions for split in PUBLISHED]
    stacks.append(simulate.simulate(dataclasses.replace(SHORT, seed=44), "train", 20).positions)
    flat = np.concatenate(stacks).reshape(80, -1)
    assert len(np.unique(flat.round(6), axis=0)) == 80


@pytest.mark.parametrize("count", [0, -1, 2001])
def test_a_split_has_an_end(count: int) -> None:
    with pytest.raises(ValueError, match="holds 1 to 2000 trajectories"):
        simulate.simulate(SHORT, "valid", count)


def test_the_cache_gives_back_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(SHORT, "train", 3, folder=tmp_path)
    assert same(first, simulate.simulate(SHORT, "train", 3))
    monkeypatch.setattr(simulate, "simulate", lambda *_: pytest.fail("simulated although the cache holds it"))
    assert same(load(SHORT, "train", 3, folder=tmp_path), first)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:400] + b"\0" * 64 + b[464:]])
def test_a_corrupt_cache_is_simulated_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    first = load(SHORT, "train", 3, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert same(load(SHORT, "train", 3, folder=tmp_path), first)
    assert same(load(SHORT, "train", 3, folder=tmp_path), first)
    assert path.read_bytes() == whole


def test_a_cache_of_another_shape_is_simulated_again(tmp_path: Path) -> None:
    first = load(SHORT, "train", 3, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    np.savez(path, **{name: values[:2] for name, values in arrays(first).items()})
    assert same(load(SHORT, "train", 3, folder=tmp_path), first)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ChargedParticles)])
def test_every_parameter_is_part_of_the_cache_key(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulate.simulate(SHORT, "train", 1)
    monkeypatch.setattr(simulate, "simulate", lambda *_: data)
    load(SHORT, "train", 1, folder=tmp_path)
    load(dataclasses.replace(SHORT, **{field: getattr(SHORT, field) + 1}), "train", 1, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert len(load(SHORT, "train", 2, folder=blocked)) == 2
    assert blocked.read_text() == "not a folder"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load(SHORT, "train", 2, folder=tmp_path)) == 2
    assert not list(tmp_path.iterdir())


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "relaxify" / "nbody"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "relaxify" / "nbody"
