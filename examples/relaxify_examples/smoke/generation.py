"""Smoke plumes simulated with PhiFlow: nearly symmetric under quarter turns, or under scaling (Wang et al., ICML 2022).

Smoke flows in at one place of a closed square box and is carried along its buoyancy by an incompressible flow. PhiFlow is
needed here and nowhere else.

    python -m relaxify_examples.smoke generate DATA --symmetry rotation
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch.nn import functional as F

from relaxify.output import write_whole

Symmetry = Literal["rotation", "scale"]
SYMMETRIES: tuple[Symmetry, ...] = ("rotation", "scale")
Vector = tuple[float, float]
Frames = Float[NDArray[np.float32], "frame 2 height width"]

# Relative and absolute tolerance of the pressure solve, which bound how symmetric and how divergence-free a plume is.
TOLERANCE = 1e-4

# Inflow and buoyancy in a box of 64 cells, each a quarter turn from the one before; one is stronger, which is one of the
# two things that break the symmetry. The other is that no two plumes of a data set have the same strength.
INFLOWS: tuple[Vector, ...] = ((32.0, 5.0), (59.0, 32.0), (32.0, 59.0), (5.0, 32.0))
BUOYANCIES: tuple[Vector, ...] = ((0.0, 0.01), (-0.01, 0.0), (0.0, -0.011), (0.01, 0.0))


@dataclass(frozen=True)
class Recipe:
    """A data set: `simulations` plumes of `steps` steps, seen on size x size cells. The first frame is not kept.

    rotation: the plume's direction goes round and its buoyancy grows from one simulation to the next, `strongest` times
    the published unit in the last one.
    scale: the same plume on ever finer grids, `strongest` times as fine in the last one, with as much more buoyancy and
    velocity in cells; the frames are brought back to size x size cells, and their velocities to those cells a step. With an
    odd number of cells the jet runs along one column instead of between two, and nearly twice as fast.
    """

    symmetry: Symmetry
    size: int = 32
    steps: int = 64
    simulations: int = 8
    strongest: float = 2.0

    def __post_init__(self) -> None:
        if self.symmetry not in SYMMETRIES:
            raise ValueError(f"{self.symmetry!r} is not a variant of smoke plumes; choose one of {', '.join(SYMMETRIES)}.")
        if self.size < 8 or self.steps < 2 or self.simulations < 1:
            raise ValueError(
                f"{self.simulations} simulations of {self.steps} steps on {self.size} x {self.size} cells make no data set; "
                "give at least 1 simulation, 2 steps and 8 cells a side."
            )


SMALL = {"rotation": Recipe("rotation", strongest=36.0), "scale": Recipe("scale", strongest=2.0)}
FULL = {"rotation": Recipe("rotation", 64, 310, 36, strongest=36.0), "scale": Recipe("scale", 64, 310, 38, strongest=4.7)}


@dataclass(frozen=True)
class Plume:
    """One simulation. Lengths in cells of the simulated grid, whose y axis points up; times in steps.

    `inflow` is the middle of the disc that smoke flows in at, `buoyancy` the acceleration by smoke of density 1, and the
    velocity carries itself for `velocity_time` of each step while it carries the smoke for all of it.
    """

    symmetry: Symmetry
    size: int
    grid: int
    steps: int
    inflow: Vector
    radius: float
    buoyancy: Vector
    velocity_time: float


def plume(recipe: Recipe, index: int) -> Plume:
    """Simulation `index` of a data set; in a smaller box, the published plume at fewer cells.

    >>> plume(FULL["rotation"], 6).buoyancy
    (0.0, -0.077)
    """
    if not 0 <= index < recipe.simulations:
        raise ValueError(f"there is no simulation {index} among {recipe.simulations}; count from 0.")
    if recipe.symmetry == "rotation":
        direction, strength, grid = index % 4, recipe.strongest * (index + 1) / recipe.simulations, recipe.size
        unit, velocity_time = BUOYANCIES[direction], 1.0
    else:
        finer = 1 + (recipe.strongest - 1) * index / max(1, recipe.simulations - 1)
        # Rounded down as published, but for factors that are a hair below a whole number of cells.
        direction, strength, grid = 0, 10.0, int(recipe.size * finer + 1e-9)
        unit, velocity_time = BUOYANCIES[0], 0.5
    cells = grid / 64
    return Plume(
        symmetry=recipe.symmetry,
        size=recipe.size,
        grid=grid,
        steps=recipe.steps,
        inflow=_times(INFLOWS[direction], cells),
        radius=5 * cells,
        buoyancy=_times(unit, strength * cells),
        velocity_time=velocity_time,
    )


def _times(vector: Vector, factor: float) -> Vector:
    x, y = vector
    return round(x * factor, 12), round(y * factor, 12)


def evolve(plume: Plume) -> Iterator[tuple[Any, Any]]:
    """Smoke and velocity after each step, as PhiFlow's fields on cell centres and on faces.

    smoke <- carried by v (MacCormack) + inflow;  v <- P(carried by v (semi-Lagrangian) + buoyancy * smoke), P the projection
    onto fields without divergence that do not leave the box. A pressure solve that does not converge is an error.
    """
    flow = _phiflow()
    box = flow.Box(x=plume.grid, y=plume.grid)
    space = {"x": plume.grid, "y": plume.grid, "bounds": box}
    smoke = flow.CenteredGrid(0.0, flow.extrapolation.BOUNDARY, **space)
    velocity = flow.StaggeredGrid(0.0, flow.extrapolation.ZERO, **space)
    disc = flow.Sphere(x=plume.inflow[0], y=plume.inflow[1], radius=plume.radius)
    inflow = flow.CenteredGrid(disc, flow.extrapolation.BOUNDARY, **space)
    # The matrix is singular, as pressure in a closed box is known up to a constant; but divergence has none, so conjugate
    # gradients never leave the space where it is definite, and PhiFlow need not border it.
    solve = flow.Solve("scipy-CG", TOLERANCE, TOLERANCE, rank_deficiency=0)
    for _ in range(plume.steps):
        with _double(flow):
            smoke = flow.advect.mac_cormack(smoke, velocity, dt=1.0) + inflow
            push = flow.resample(smoke * plume.buoyancy, to=velocity)
            velocity = flow.advect.semi_lagrangian(velocity, velocity, dt=plume.velocity_time) + push
            velocity, _ = flow.fluid.make_incompressible(velocity, (), solve)
        yield smoke, velocity


def simulate(plume: Plume) -> Frames:
    """Velocities (v_x, v_y) at cell centres, in cells of the frames a step; y points up, so row 0 is the top of the box."""
    kept = []
    for step, (_, velocity) in enumerate(evolve(plume)):
        if step > 0:
            kept.append(velocity.at_centers().values.numpy("vector,y,x")[:, ::-1])
    frames = torch.from_numpy(np.stack(kept))
    if plume.grid != plume.size:
        size = (plume.size, plume.size)
        frames = F.interpolate(frames, size, mode="bilinear", align_corners=False) * (plume.size / plume.grid)
    return frames.float().numpy()


def generate(recipe: Recipe, folder: Path) -> Iterator[tuple[Path, bool]]:
    """Write one file a simulation, and say of each whether it was simulated now; those that are there are kept.

    ValueError before anything is simulated if the folder holds other simulations, or PhiFlow is missing.
    """
    plumes = [plume(recipe, index) for index in range(recipe.simulations)]
    files = {folder / f"{recipe.symmetry}-{index:02d}.safetensors": this for index, this in enumerate(plumes)}
    for path in sorted(folder.glob("*.safetensors")):
        if path not in files or _recorded(path) != asdict(files[path]):
            raise ValueError(f"{path} is not of this data set; give a folder of its own to each.")
    if not all(path.exists() for path in files):
        _phiflow()
    folder.mkdir(parents=True, exist_ok=True)
    for path, this in files.items():
        missing = not path.exists()
        if missing:
            _write(path, simulate(this), this)
        yield path, missing


def _recorded(path: Path) -> dict[str, Any] | None:
    """What a file says that it was simulated with."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            recorded = json.loads(file.metadata()["plume"])
    except (safetensors.SafetensorError, OSError, TypeError, KeyError, ValueError):
        return None
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recorded.items()}


def _write(path: Path, velocity: Frames, plume: Plume) -> None:
    metadata = {"plume": json.dumps(asdict(plume)), "phiflow": _version()}
    content = safetensors.numpy.save({"velocity": np.ascontiguousarray(velocity)}, metadata)
    write_whole(path, content, force=True)


def _phiflow() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import phi.flow
    except ImportError as error:
        raise ValueError(f"smoke is simulated with PhiFlow, which is not there ({error}): pip install phiflow.") from error
    return phi.flow


def _version() -> str:
    import phi

    return phi.__version__


@contextlib.contextmanager
def _double(flow: ModuleType) -> Iterator[None]:
    """In float64, and without PhiFlow's warnings about its own use of names that it deprecates."""
    with flow.math.precision(64), warnings.catch_warnings(), _wide_indices():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _wide_indices() -> Iterator[None]:
    """PhiFlow numbers the entries of the pressure's matrix in int32: too narrow from 216 x 216 cells on."""
    from phiml.backend import NUMPY

    numpy, narrow = type(NUMPY), type(NUMPY).ravel_multi_index

    def wide(self: Any, multi_index: NDArray[Any], shape: Any, mode: Any = "undefined") -> NDArray[Any]:
        return narrow(self, np.asarray(multi_index, np.int64), shape, mode)

    numpy.ravel_multi_index = wide
    try:
        yield
    finally:
        numpy.ravel_multi_index = narrow
