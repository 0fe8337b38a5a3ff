"""Molecules as a system of the evidence: what is tested was not learned from, in units that give eV/Angstrom back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.evidence.molecules import ETHANOL, FORCES_TO_ENERGY, frames, unit
from benchmarks.evidence.system import System
from relaxify import plan

MOLECULES = (ETHANOL,)
of_each_molecule = pytest.mark.parametrize("system", MOLECULES, ids=lambda system: system.name)


def places(system: System, positions: torch.Tensor) -> list[int]:
    """When in the trajectory these frames were."""
    whole = torch.from_numpy(frames(system.name).positions)
    return [int((whole == one).flatten(1).all(1).nonzero()) for one in positions]


@of_each_molecule
def test_no_tested_frame_is_near_in_time_to_one_that_is_learned_from(system: System) -> None:
    learned = set()
    for seed in range(3):
        data = system.data(seed)
        drawn = places(system, data.inputs[0])
        assert len(set(drawn)) == system.size
        learned |= set(drawn)
        assert places(system, data.test_inputs[0])[0] - max(drawn) > 0.1 * len(frames(system.name))
    assert len(learned) > system.size


@of_each_molecule
def test_targets_are_energies_from_the_mean_of_what_is_learned_and_forces(system: System) -> None:
    data, whole = system.data(0), frames(system.name)
    assert data.targets[:, 0].mean().item() == pytest.approx(0, abs=1e-4)
    row, scale = places(system, data.test_inputs[0][:1])[0], unit(system.name)
    np.testing.assert_allclose(data.test_targets[0, 1:] * scale, whole.forces[row].ravel(), rtol=1e-5)
    mean = whole.energies[places(system, data.inputs[0])].mean()
    assert data.test_targets[0, 0].item() * scale == pytest.approx(whole.energies[row] - mean, abs=1e-5)


@of_each_molecule
def test_errors_are_those_of_forces_and_the_loss_has_a_part_of_the_energies(system: System) -> None:
    targets = system.data(0).targets[:5]
    ahead = targets + 1e-3 / unit(system.name)
    assert system.measure(ahead, targets) == pytest.approx(1.0, rel=1e-3)
    energies, forces = targets.clone(), targets.clone()
    energies[:, 0] += 2
    forces[:, 1:] += 2
    assert system.criterion(energies, targets).item() == pytest.approx(4 / FORCES_TO_ENERGY, rel=1e-5)
    assert system.criterion(forces, targets).item() == pytest.approx(4, rel=1e-5)
    assert system.measure(energies, targets) == 0


@of_each_molecule
def test_its_sites_are_as_many_as_the_page_says(system: System) -> None:
    assert f", {len(plan(system.make(), system.group).sites)} sites)" in system.what
