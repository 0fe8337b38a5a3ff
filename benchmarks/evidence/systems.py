"""All systems, in the order of the page."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.evidence import clouds, nbody
from benchmarks.evidence.molecules import ASPIRIN, ETHANOL
from benchmarks.evidence.smoke import SMOKE
from benchmarks.evidence.system import System
from benchmarks.evidence.teacher import TEACHER

_ALL = (
    *(TEACHER, clouds.ALIGNED, *clouds.WIDTHS, clouds.ROTATED, clouds.POINTNET, clouds.DGCNN),
    *(nbody.NBODY, *nbody.WIDTHS, *nbody.SIZES, ETHANOL, ASPIRIN, SMOKE),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}


def small(system: System) -> System:
    """The same in seconds: two seeds, few data, a few steps, and two rates to choose from."""
    few = {"size": 32, "batch": 8, "steps": 4, "timed": 3, "diagnosed": 4, "seeds": 2, "sweep": 1, "wider": 0}
    return replace(system, **few, rates=system.rates[:2])
