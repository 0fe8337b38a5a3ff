"""The runs of a system in a file that can be gone on with: what is missing is trained, and written after each group."""

from __future__ import annotations

import functools
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.compute import step_ratio
from benchmarks.evidence.diagnosed import diagnosed
from benchmarks.evidence.one_by_one import one_by_one
from benchmarks.evidence.side_by_side import Member, SideBySide
from benchmarks.evidence.sweeping import Sweep, swept
from benchmarks.evidence.system import System, tested
from benchmarks.evidence.ways import WAYS, Way

RESULTS = Path(__file__).parent.parent / "results" / "evidence"


def this_machine() -> dict[str, Any]:
    return {"device": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


@dataclass
class Runs:
    """All that was run of a system: for each way, number of steps and rate, a value a seed; and the diagnosis before it."""

    system: System
    path: Path
    step_ratio: Mapping[str, float] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=this_machine)
    diagnosis: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, system: System, folder: Path = RESULTS) -> Runs:
        path = folder / f"{system.name}.json"
        if not path.exists():
            return cls(system, path)
        found = json.loads(path.read_text())
        return cls(system, path, found["step ratio"], found["groups"], found["machine"], found.get("diagnosis", []))

    def values(self, way: str, rate: float, steps: int) -> dict[int, float]:
        """The measured value of each seed; one that is not finite is the worst there is."""
        worst = -math.inf if self.system.higher_is_better else math.inf
        found: dict[int, float] = {}
        for group in self._groups(way, rate, steps):
            values = (worst if value is None else value for value in group["values"])
            found |= dict(zip(group["seeds"], values, strict=True))
        return found

    def also(self, name: str, way: str, rate: float, steps: int) -> dict[int, float]:
        """What else was measured of each seed."""
        found: dict[int, float] = {}
        for group in self._groups(way, rate, steps):
            values = (math.nan if value is None else value for value in group.get("also", {}).get(name, ()))
            found |= dict(zip(group["seeds"], values, strict=False))
        return found

    def _groups(self, way: str, rate: float, steps: int) -> list[dict[str, Any]]:
        return [group for group in self.groups if (group["way"], group["rate"], group["steps"]) == (way, rate, steps)]

    def shares(self, way: str, rate: float, steps: int) -> float:
        """The mean over runs of the largest share that terms had of their layers' outputs."""
        found = [share for group in self._groups(way, rate, steps) for share in group["shares"]]
        return math.fsum(found) / len(found)

    def steps(self, way: str) -> int:
        """How many steps a way takes."""
        how = WAYS[way]
        more = how.relaxed * (self.step_ratio["relaxed"] - 1) if how.is_plain else 0.0
        return round(self.system.steps * (1 + more))

    def rate(self, way: str) -> float | None:
        """The way's learning rate: the best mean of the sweep, or None before that is complete."""
        return self.sweep(way).best if WAYS[way].is_swept else self.system.rate

    def sweep(self, way: str) -> Sweep:
        """As far as it has gone."""
        system, mean = self.system, functools.partial(self.mean_of_sweep, way)
        return swept(system.rates, mean, wider=system.wider, higher_is_better=system.higher_is_better)

    def mean_of_sweep(self, way: str, rate: float) -> float | None:
        """Over the seeds by which rates are chosen, or None before all of them were run."""
        values = self.values(way, rate, self.steps(way))
        found = [values[seed] for seed in self.system.sweep_seeds if seed in values]
        return math.fsum(found) / self.system.sweep if len(found) == self.system.sweep else None

    def complete(self, ways: Sequence[str], seeds: int) -> None:
        """Train what is missing: for each way its sweep, then the seeds that are tested."""
        if not self.step_ratio:
            self.step_ratio = step_ratio(self.system)
            self.save()
        if not self.diagnosis:
            self.diagnosis = diagnosed(self.system)
            self.save()
        for way in ways:
            while (rate := self.rate(way)) is None:
                wanted = [Member(seed, rate) for rate in self.sweep(way).rates for seed in self.system.sweep_seeds]
                self._train(way, wanted, "sweep")
            self._train(way, [Member(seed, rate) for seed in range(seeds)], "test")

    def _train(self, way: str, wanted: Sequence[Member], purpose: str) -> None:
        steps = self.steps(way)
        missing = [each for each in wanted if each.seed not in self.values(way, each.rate, steps)]
        for start in range(0, len(missing), self.system.side_by_side):
            members = missing[start : start + self.system.side_by_side]
            self._train_group(way, WAYS[way], members, steps)
            print(
                f"{self.system.name}: {way}, {purpose}, {len(members)} runs: {self._said(way, members, steps)}", flush=True
            )

    def _said(self, way: str, members: Sequence[Member], steps: int) -> str:
        rates = dict.fromkeys(member.rate for member in members)
        means = {rate: self.values(way, rate, steps).values() for rate in rates}
        seconds = sum(group["cpu seconds"] for group in self.groups[-len(rates) :])
        said = ", ".join(f"{math.fsum(v) / len(v):{self.system.form}} at {rate:g}" for rate, v in means.items())
        return f"{said} ({seconds:.0f} CPU-s)"

    def _train_group(self, way: str, how: Way, members: Sequence[Member], steps: int) -> None:
        start = time.process_time()
        data = {seed: self.system.data(seed) for seed in dict.fromkeys(member.seed for member in members)}
        parts = [data[each.seed] for each in members]
        if self.system.is_stacked:
            found = SideBySide(self.system, how.arm(steps), members, steps, parts).run()
        else:
            found = one_by_one(self.system, how.arm(steps), members, steps, parts)
        measured = [tested(self.system, each.model, data[m.seed]) for m, each in zip(members, found, strict=True)]
        seconds = time.process_time() - start
        for rate in dict.fromkeys(member.rate for member in members):
            chosen = [k for k, member in enumerate(members) if member.rate == rate]
            self.groups.append(
                {
                    "way": way,
                    "rate": rate,
                    "steps": steps,
                    "seeds": [members[k].seed for k in chosen],
                    "values": [_rounded(measured[k][self.system.column]) for k in chosen],
                    **({"also": also} if (also := self._also([measured[k] for k in chosen])) else {}),
                    "shares": [float(f"{found[k].share:.3g}") for k in chosen],
                    "cpu seconds": round(seconds * len(chosen) / len(members), 2),
                }
            )
        self.save()

    def _also(self, measured: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
        return {name: [_rounded(each[name]) for each in measured] for name in self.system.also}

    def save(self) -> None:
        """One line a group."""
        head = {
            "system": self.system.name,
            "machine": self.machine,
            "step ratio": self.step_ratio,
            "diagnosis": self.diagnosis,
        }
        lines = ",\n  ".join(map(json.dumps, self.groups))
        text = json.dumps(head, indent=1)[:-2] + f',\n "groups": [\n  {lines}\n ]\n}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.replace(self.path)


def _rounded(value: float) -> float | None:
    """As it is kept: JSON has no numbers that are not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
