"""The charged N-body benchmark: five particles in 3-D, attracting and repelling by Coulomb's law.

Kipf et al. 2018 (arXiv 1802.04687), in three dimensions as in EGNN (arXiv 2102.09844), SEGNN (arXiv 2110.02905) and CR
sec. 4.2: from positions, velocities and charges at one frame predict the positions ten frames, 1000 steps of 1e-3, later.
The random stream, its cut into splits and the order of operations are that benchmark's, and so are the trajectories.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from relaxify.output import replacing

Array = npt.NDArray[np.float64]
Split = Literal["train", "valid", "test"]

# The benchmark draws its three splits one after the other from a single stream: first and one-past-last trajectory of each.
SPLITS: dict[Split, tuple[int, int]] = {"train": (0, 10_000), "valid": (10_000, 12_000), "test": (12_000, 14_000)}

# Part of every cache key: raise it when the same parameters would give other numbers.
VERSION = 1

# 10 pairs x 3 axes x 512 trajectories of float64 stay in a core's L2 cache.
_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class ChargedParticles:
    """What is simulated; the defaults are the benchmark's.

    Attributes:
        particles: number of particles, each of unit mass and of charge -1 or +1 with equal odds.
        dt: integration step, in the benchmark's unit of time.
        frame_every: steps between two frames; frame k lies `(k + 1) * frame_every` steps after the start.
        frame_in: the frame a model sees.
        frame_out: the frame whose positions it is to predict.
        speed: initial speed of every particle.
        max_force: bound on each component of the force, `0.1 / dt` in the benchmark.
        frames: frames the benchmark records; they fix how many random numbers a trajectory consumes.
        seed: seed of the random stream.
    """

    particles: int = 5
    dt: float = 1e-3
    frame_every: int = 100
    frame_in: int = 30
    frame_out: int = 40
    speed: float = 0.5
    max_force: float = 100.0
    frames: int = 49
    seed: int = 43

    @property
    def horizon(self) -> float:
        """Time between the frame seen and the frame predicted."""
        return (self.frame_out - self.frame_in) * self.frame_every * self.dt


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Input and target of the prediction task, one row a trajectory."""

    positions: Float[Array, "trajectory particle 3"]
    velocities: Float[Array, "trajectory particle 3"]
    charges: Float[Array, "trajectory particle 1"]
    targets: Float[Array, "trajectory particle 3"]

    def __len__(self) -> int:
        return len(self.positions)


def initial_states(
    system: ChargedParticles, start: int, stop: int
) -> tuple[Float[Array, "t n 3"], Float[Array, "t n 3"], Float[Array, "t n"]]:
    """Positions, velocities and charges at time 0 of trajectories `start` to `stop` of the benchmark's random stream.

    x ~ N(0, (n/5)^(2/3)), v uniform on the sphere of radius `speed`, q = +-1. The stream is walked from its beginning.
    """
    rng = np.random.RandomState(system.seed)
    n, rows = system.particles, []
    for index in range(stop):
        charges = rng.choice([-1.0, 0.0, 1.0], size=n, p=[0.5, 0.0, 0.5])
        positions = rng.standard_normal((3, n)) * (n / 5.0) ** (1 / 3)
        velocities = rng.standard_normal((3, n))
        velocities = velocities * system.speed / np.sqrt((velocities**2).sum(axis=0))
        # The benchmark draws observation noise for every frame and scales it by zero: the draws still move the stream on.
        rng.standard_normal(2 * system.frames * 3 * n)
        if index >= start:
            rows.append((positions.T, velocities.T, charges))
    stacked = [np.stack(column) for column in zip(*rows, strict=True)]
    return stacked[0], stacked[1], stacked[2]


def integrate(
    system: ChargedParticles,
    positions: Float[Array, "t n 3"],
    velocities: Float[Array, "t n 3"],
    charges: Float[Array, "t n"],
    steps: int,
) -> tuple[Float[Array, "t n 3"], Float[Array, "t n 3"]]:
    """Positions after `steps` steps, and the velocities that carried the particles there.

    Leapfrog, started with a whole kick as in the benchmark: v <- v + dt F(x), x <- x + dt v with
    F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3, each component cut at `max_force`.

    A close encounter magnifies the last bit to order one (one trajectory in twenty within 4100 steps), so only the
    benchmark's own arithmetic reproduces its data: |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 x_i.x_j, the products by BLAS.
    """
    t, n, _ = positions.shape
    first, second = np.triu_indices(n, k=1)
    pairs = np.arange(len(first))
    # The signed incidence matrix takes particles to pair differences; its transpose adds the pairs' forces up.
    incidence = np.zeros((len(pairs), n))
    incidence[pairs, first], incidence[pairs, second] = 1.0, -1.0
    strength = (charges[:, first] * charges[:, second]).T
    # Trajectories on the last axis: all but the products runs along contiguous memory.
    x, v = (np.array(a.transpose(1, 2, 0), order="C").reshape(n, -1) for a in (positions, velocities))
    for _ in range(steps):
        points = x.reshape(n, 3, t)
        columns = np.ascontiguousarray(points.transpose(2, 1, 0))
        products = (columns.transpose(0, 2, 1) @ columns)[:, first, second].T
        squares = points**2
        norms = squares[:, 0] + squares[:, 1] + squares[:, 2]
        force_over_distance = strength / np.power(norms[first] + norms[second] - 2 * products, 1.5)
        pair_forces = (incidence @ x).reshape(-1, 3, t) * force_over_distance[:, None]
        forces = incidence.T @ pair_forces.reshape(-1, 3 * t)
        v += system.dt * np.clip(forces, -system.max_force, system.max_force)
        x += system.dt * v
    return x.reshape(n, 3, t).transpose(2, 0, 1), v.reshape(n, 3, t).transpose(2, 0, 1)


def simulate(system: ChargedParticles, split: Split, count: int) -> Trajectories:
    """The first `count` trajectories of a split, simulated afresh.

    Raises:
        ValueError: the split does not hold `count` trajectories.

    Example:
        >>> few = simulate(ChargedParticles(frame_in=0, frame_out=1), "train", 4)
        >>> few.positions.shape, len(few)
        ((4, 5, 3), 4)
    """
    start, stop = SPLITS[split]
    if not 1 <= count <= stop - start:
        raise ValueError(
            f"The split {split!r} holds 1 to {stop - start} trajectories, not {count}: ask for a number in that range."
        )
    x, v, q = initial_states(system, start, start + count)
    before = (system.frame_in + 1) * system.frame_every
    between = (system.frame_out - system.frame_in) * system.frame_every
    chunks = []
    for rows in (slice(i, i + _CHUNK) for i in range(0, count, _CHUNK)):
        seen = integrate(system, x[rows], v[rows], q[rows], before)
        chunks.append((*seen, integrate(system, *seen, q[rows], between)[0]))
    positions, velocities, targets = (np.concatenate(column) for column in zip(*chunks, strict=True))
    return Trajectories(positions, velocities, q[..., None], targets)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/relaxify/nbody`, under `~/.cache` where the variable is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relaxify" / "nbody"


def load(system: ChargedParticles, split: Split, count: int, *, folder: Path | None = None) -> Trajectories:
    """`simulate`, kept on disk: a file for every combination of parameters, written whole or not at all.

    An unreadable file is simulated again and replaced; where the folder cannot be written, nothing is kept.
    """
    key = json.dumps({"version": VERSION, "split": split, "count": count, **dataclasses.asdict(system)}, sort_keys=True)
    path = (folder or cache_folder()) / f"{split}-{count}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    cached = _read(path, count, system.particles)
    if cached is not None:
        return cached
    data = simulate(system, split, count)
    # A cache that cannot be written costs the next run its time, this one nothing.
    with contextlib.suppress(OSError):
        _write(path, data)
    return data


def _read(path: Path, count: int, particles: int) -> Trajectories | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            data = Trajectories(**{field.name: arrays[field.name] for field in dataclasses.fields(Trajectories)})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    shapes = {"positions": 3, "velocities": 3, "charges": 1, "targets": 3}
    complete = all(getattr(data, name).shape == (count, particles, width) for name, width in shapes.items())
    return data if complete else None


def _write(path: Path, data: Trajectories) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, force=True) as new:
        np.savez(new.file, **{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})
