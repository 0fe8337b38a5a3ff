"""Energies and forces of one molecule in motion, as MD17 has them, learned by a small Equiformer.

The frames of `benchmarks/data` were simulated by `python -m relaxify_examples.molecules generate`. Learned from are frames
of the first 60 % of a trajectory, and tested is its last fifth: no frame is a neighbour in time of one of the others. The
fifth between them is what rates are chosen by.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.evidence.python_only import as_python
from benchmarks.evidence.system import SWEPT_FROM, Data, System, drawn
from relaxify_examples.models.equiformer import Equiformer
from relaxify_examples.models.segnn import fully_connected
from relaxify_examples.molecules.frames import Frames, load

DATA = Path(__file__).parent.parent / "data"
LEARNED_FROM, TESTED_FROM = 0.6, 0.8
FORCES_TO_ENERGY = 80
"""The weight of forces in the loss, that of the energy being 1: as published for most of MD17's molecules."""


class Targets(nn.Module):
    """Positions [B, N, 3] to one row [1 + 3 N] each: the energy, then the forces -dE/dx.

    As `ForceField`, but with functions that `vmap` can go over: all pairs are edges (messages of those beyond the cutoff are
    zero), and the slope is that of `torch.func`.
    """

    def __init__(self, network: nn.Module, kinds: Int[Tensor, " n"]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("kinds", kinds, persistent=False)

    def forward(self, positions: Float[Tensor, "b n 3"]) -> Float[Tensor, "b targets"]:
        energies, slope_of = torch.func.vjp(self.energies, positions)
        (slopes,) = slope_of(torch.ones_like(energies))
        return rows(energies, -slopes)

    def energies(self, positions: Float[Tensor, "b n 3"]) -> Float[Tensor, " b"]:
        molecules, atoms = positions.shape[:2]
        edges = fully_connected(molecules, atoms)
        each: Tensor = self.network(self.kinds.repeat(molecules), positions.flatten(0, 1), edges)
        return each.unflatten(0, (molecules, atoms)).sum(1)


def rows(energies: Float[Tensor, " b"], forces: Float[Tensor, "b n 3"]) -> Float[Tensor, "b targets"]:
    return torch.cat([energies[:, None], forces.flatten(1)], dim=1)


@cache
def frames(molecule: str) -> Frames:
    return load(DATA / f"{molecule}.npz")


@cache
def parts(molecule: str) -> tuple[Frames, Frames, Frames]:
    """All frames that a seed may draw, those by which rates are chosen, and those that are tested, in the order of time."""
    whole = frames(molecule)
    learned, tested = (round(part * len(whole)) for part in (LEARNED_FROM, TESTED_FROM))
    return whole[:learned], whole[learned:tested], whole[tested:]


@cache
def unit(molecule: str) -> float:
    """The root mean square component of a force, in eV/Angstrom: in its units forces, and energies in eV, are learned."""
    pool, *_ = parts(molecule)
    return float((pool.forces**2).mean() ** 0.5)


def samples(molecule: str, seed: int, size: int) -> Data:
    """So many frames of those to learn from, drawn by the seed; energies from their mean."""
    pool, valid, last = parts(molecule)
    tested = last if seed < SWEPT_FROM else valid
    learned = pool[drawn(len(pool), size, seed).numpy()]
    mean = float(learned.energies.mean())
    inputs, test_inputs = (torch.from_numpy(each.positions) for each in (learned, tested))
    targets, test_targets = (_targets(each, mean, unit(molecule)) for each in (learned, tested))
    return Data((inputs,), targets, (test_inputs,), test_targets)


def _targets(of: Frames, mean: float, scale: float) -> Tensor:
    return rows(torch.from_numpy(of.energies - mean).float(), torch.from_numpy(of.forces)) / scale


def loss(output: Tensor, targets: Tensor) -> Tensor:
    """The mean square error of forces, and a part of that of energies."""
    errors = (output - targets).square()
    return errors[:, 1:].mean() + errors[:, 0].mean() / FORCES_TO_ENERGY


def force_error(molecule: str, output: Tensor, targets: Tensor) -> float:
    """The mean absolute error of a component, in meV/Angstrom."""
    return 1e3 * unit(molecule) * float((output - targets)[:, 1:].abs().mean())


def energy_error(molecule: str, output: Tensor, targets: Tensor) -> float:
    """The mean absolute error of a molecule's energy, in meV."""
    return 1e3 * unit(molecule) * float((output - targets)[:, 0].abs().mean())


def make(molecule: str, irreps: str, depth: int, cutoff: float) -> nn.Module:
    numbers = frames(molecule).numbers.tolist()
    order = sorted(set(numbers))
    with as_python():
        network = Equiformer(irreps, depth, len(order), radial=8, cutoff=cutoff)
    return Targets(network, torch.tensor([order.index(number) for number in numbers]))


def _system(molecule: str, irreps: str, depth: int, cutoff: float, sites: int, size: int, **rest: Any) -> System:
    return System(
        name=molecule,
        title=f"Forces of {molecule}",
        what=(
            f"A small Equiformer ({irreps}, {depth} blocks, {sites} sites) learns energies and forces of {molecule} from "
            f"{size} frames of a trajectory at 500 K, simulated with GFN2-xTB, and is tested on its last fifth. Measured "
            "is the mean absolute error of a force's components."
        ),
        make=partial(make, molecule, irreps, depth, cutoff),
        samples=partial(samples, molecule),
        size=size,
        criterion=loss,
        measure=partial(force_error, molecule),
        also={"energy, meV": partial(energy_error, molecule)},
        column="forces, meV/Å",
        higher_is_better=False,
        group="O(3)",
        rate=1e-2,
        rates=(3e-3, 1e-2, 3e-2),
        timed=30,
        form=".1f",
        **rest,
    )


NETWORK: dict[str, Any] = {"irreps": "16x0e+8x1o", "depth": 2, "cutoff": 5.0, "sites": 21}
ETHANOL = _system("ethanol", **NETWORK, size=200, steps=500, batch=8, sweep=3, side_by_side=10)
ASPIRIN = _system("aspirin", **NETWORK, size=150, steps=300, batch=4, sweep=2, side_by_side=6, seeds=10)
