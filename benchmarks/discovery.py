"""Symmetries of data with known answers: dimension, name and verdict by number of samples, and seconds by dimension.

python -m benchmarks.discovery [--draws 5] [--only NAME ...]
python -m benchmarks.discovery --null --draws 200
python -m benchmarks.discovery --power --draws 50
python -m benchmarks.discovery --times

The first runs every data set of `DATA_SETS` at its numbers of samples, the second data without a symmetry, where "found" is
an error, the third rotations that are broken by a known modulation of the density, the last Gaussians of many dimensions.
Results go to `results/discovery*.json` as they come; what is there is not run again, and tables are printed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relaxify.lconv import Symmetry, symmetries_of
from relaxify.lconv.symmetry import Verdict
from relaxify.lconv.symmetry.harmonics import gegenbauer
from relaxify.lconv.symmetry.harmonics import size as harmonics_of

RESULTS = Path(__file__).parent / "results"
SIZES = (300, 1_000, 3_000, 10_000, 30_000, 100_000)
Draw = Callable[[int, torch.Generator], Tensor]


def distribution(data: Tensor) -> Symmetry:
    """What the benchmark asks of samples without labels, unless a data set says otherwise."""
    return symmetries_of(data, resamplings=0)


@dataclass(frozen=True)
class DataSet:
    """Samples that are drawn, what finds their symmetry, and the right answer: a verdict with a name and a dimension."""

    name: str
    draw: Callable[[int, torch.Generator], Any]
    verdict: str
    answer: str | None = None
    dimension: int = 0
    find: Callable[[Any], Symmetry] = distribution
    sizes: tuple[int, ...] = SIZES
    known: tuple[str, ...] = field(default=())
    """Other names of the answer."""

    def is_right(self, row: dict[str, Any]) -> bool:
        """Whether verdict, name and dimension are the known ones."""
        if row["verdict"] != self.verdict or (self.answer and row["answer"] not in (self.answer, *self.known)):
            return False
        return self.verdict != "found" or bool(row["dimension"] == self.dimension)


def normal(*shape: int, random: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def uniform(*shape: int, random: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=random, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)


def mixed(draw: Draw) -> Draw:
    """In other coordinates, so that the symmetry is not in those that it is looked for in."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        z = draw(count, random)
        d = z.shape[-1]
        return z @ (torch.eye(d, dtype=torch.float64) + normal(d, d, random=random) / math.sqrt(d)).mT

    return drawn


def noisy(draw: Draw, share: float = 0.1) -> Draw:
    """With isotropic noise, which keeps every rotation."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        z = draw(count, random)
        return z + share * z.std() * normal(*z.shape, random=random)

    return drawn


def side_by_side(*draws: Draw) -> Draw:
    """Independent coordinates."""
    return lambda count, random: torch.cat([draw(count, random) for draw in draws], -1)


def gaussian(d: int) -> Draw:
    return lambda count, random: normal(count, d, random=random)


def sphere(d: int) -> Draw:
    """Of radius 1 to 1.5."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        direction = torch.nn.functional.normalize(normal(count, d, random=random), dim=1)
        return direction * (1 + 0.5 * uniform(count, 1, random=random))

    return drawn


def clusters(k: int, spread: float = 0.15) -> Draw:
    """k of them on a circle."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.randint(k, (count,), generator=random).double() / k
        return torch.stack([angle.cos(), angle.sin()], 1) + spread * normal(count, 2, random=random)

    return drawn


def pinwheel(k: int) -> Draw:
    """k clusters on a circle, and as many farther out that are turned by a third of the way to the next."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        far = (uniform(count, random=random) < 0.35).double()
        angle = 2 * math.pi * (torch.randint(k, (count,), generator=random) + far / 3) / k
        return (1 + 0.6 * far[:, None]) * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * normal(count, 2, random=random)

    return drawn


def logistic(d: int) -> Draw:
    def drawn(count: int, random: torch.Generator) -> Tensor:
        u = uniform(count, d, random=random)
        return (u / (1 - u)).log()

    return drawn


def laplace(d: int) -> Draw:
    def drawn(count: int, random: torch.Generator) -> Tensor:
        return uniform(count, d, random=random).log() - uniform(count, d, random=random).log()

    return drawn


def exponential(d: int) -> Draw:
    """Skewed, of mean zero."""
    return lambda count, random: -uniform(count, d, random=random).log() - 1


def corners(d: int, spread: float = 0.3) -> Draw:
    """Of a cube."""
    return lambda count, random: normal(count, d, random=random).sign() + spread * normal(count, d, random=random)


def mixture(d: int) -> Draw:
    """Three Gaussians at places and of widths of their own."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        centres, widths = 1.5 * normal(3, d, random=random), 0.5 + uniform(3, d, random=random)
        chosen = torch.randint(3, (count,), generator=random)
        return centres[chosen] + widths[chosen] * normal(count, d, random=random)

    return drawn


def rotations(count: int, d: int, random: torch.Generator) -> Tensor:
    """Uniform ones of O(d)."""
    q, r = torch.linalg.qr(normal(count, d, d, random=random))
    return q * r.diagonal(dim1=1, dim2=2).sign()[:, None]


def turned_together(d: int, vectors: int) -> Draw:
    """Vectors of varying lengths and angles, of a common random rotation: (n, vectors, d)."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        shapes = uniform(count, vectors, d, random=random) + torch.eye(vectors, d, dtype=torch.float64)
        return shapes @ rotations(count, d, random).mT

    return drawn


def special_unitary(vectors: int, phase: bool = False) -> Draw:
    """Vectors of C^2, as (n, vectors, 4), of a common random element of SU(2), or with a common random phase of U(2)."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        a = torch.nn.functional.normalize(normal(count, 4, random=random), dim=1)
        alpha, beta = torch.complex(a[:, 0], a[:, 1]), torch.complex(a[:, 2], a[:, 3])
        element = torch.stack([torch.stack([alpha, -beta.conj()], 1), torch.stack([beta, alpha.conj()], 1)], 1)
        if phase:
            element = element * torch.exp(2j * math.pi * uniform(count, random=random))[:, None, None]
        three = normal(3, vectors, 4, random=torch.Generator().manual_seed(0))
        shapes = three[torch.randint(3, (count,), generator=random)] + 0.3 * uniform(count, vectors, 4, random=random)
        moved = torch.einsum("nab,nvb->nva", element, torch.complex(shapes[..., :2], shapes[..., 2:]))
        return torch.cat([moved.real, moved.imag], -1)

    return drawn


def flat(draw: Draw) -> Draw:
    """Several vectors as one."""
    return lambda count, random: draw(count, random).flatten(1)


LARGE = SIZES[1:]
DATA_SETS: tuple[DataSet, ...] = (
    DataSet("SO(2), a noisy ring", noisy(sphere(2)), "found", "so(2)", 1),
    DataSet("SO(2), mixed coordinates", mixed(noisy(sphere(2))), "found", "so(2)", 1),
    DataSet("SO(3), a shell", mixed(sphere(3)), "found", "so(3)", 3),
    DataSet("SO(4), Gaussian", mixed(gaussian(4)), "found", "so(4)", 6),
    DataSet("SO(6), Gaussian", mixed(gaussian(6)), "found", "so(6)", 15),
    DataSet("SO(2) about an axis", mixed(side_by_side(gaussian(2), exponential(1))), "found", "so(2)", 1),
    DataSet("SO(3) beside two skewed", mixed(side_by_side(gaussian(3), exponential(2))), "found", "so(3)", 3),
    DataSet("SO(3) x SO(2)", mixed(side_by_side(sphere(3), sphere(2))), "found", "so(3) + so(2)", 4),
    DataSet("SO(2) x SO(2)", mixed(side_by_side(sphere(2), sphere(2))), "found", "abelian(2)", 2, known=("so(2) + so(2)",)),
    DataSet("SO(3) x SO(3)", mixed(side_by_side(sphere(3), sphere(3))), "found", "so(3) + so(3)", 6, known=("so(4)",)),
    DataSet("SO(3) on 2 vectors in R^6", mixed(flat(turned_together(3, 2))), "found", "so(3)", 3, sizes=LARGE),
    DataSet("SO(3) on (n, 2, 3)", mixed(turned_together(3, 2)), "found", "so(3)", 3),
    DataSet("SO(3) on (n, 4, 3), noisy", mixed(noisy(turned_together(3, 4))), "found", "so(3)", 3),
    DataSet("SO(2) on (n, 3, 2)", mixed(turned_together(2, 3)), "found", "so(2)", 1),
    DataSet("SU(2) on (n, 2, 4)", mixed(special_unitary(2)), "found", "su(2)", 3, known=("so(3)",)),
    DataSet("U(2) on (n, 2, 4)", mixed(special_unitary(2, phase=True)), "found", "u(2)", 4),
    DataSet("D(3)", mixed(clusters(3)), "discrete", "D(3)"),
    DataSet("D(6)", mixed(clusters(6)), "discrete", "D(6)"),
    DataSet("D(8)", mixed(clusters(8)), "discrete", "D(8)"),
    DataSet("D(12)", mixed(clusters(12)), "discrete", "D(12)"),
    DataSet("D(8) beside a skewed one", mixed(side_by_side(clusters(8), exponential(1))), "discrete", "D(8)"),
    DataSet("C(4), a pinwheel", mixed(pinwheel(4)), "discrete", "C(4)"),
    DataSet("a cube's corners", mixed(corners(3)), "discrete", "cube"),
    DataSet("three logistic", mixed(logistic(3)), "discrete", "cube"),
    DataSet("three exponential", mixed(exponential(3)), "discrete", "S(3)"),
    DataSet("none: of three kinds", mixed(side_by_side(exponential(1), logistic(1), corners(1))), "none"),
    DataSet("none: a mixture", mixture(3), "none"),
)

WITHOUT: dict[str, Draw] = {
    "logistic": mixed(logistic(3)),
    "Laplace": mixed(laplace(3)),
    "C(2)": mixed(clusters(2)),
    "C(5)": mixed(clusters(5)),
    "C(8)": mixed(clusters(8)),
    "C(12)": mixed(clusters(12)),
    "cube": mixed(corners(3)),
    "skewed": mixed(exponential(4)),
    "mixture": mixture(3),
    "correlated uniform": mixed(lambda count, random: uniform(count, 4, random=random) - 0.5),
}
"""Data without a continuous symmetry."""


def outcome(found: Symmetry, seconds: float) -> dict[str, Any]:
    return {
        "verdict": str(found.verdict),
        "answer": found.name or found.discrete,
        "dimension": found.dimension,
        "smallest_break": found.smallest_break,
        "seconds": seconds,
    }


def run(data_set: DataSet, count: int, seed: int) -> dict[str, Any]:
    """One draw."""
    data = data_set.draw(count, torch.Generator().manual_seed(seed))
    start = time.thread_time()
    return outcome(data_set.find(data), time.thread_time() - start)


class Results:
    """A file of rows by key, written as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def row(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.rows:
            self.rows[key] = make()
            text = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in self.rows.items())
            self.path.write_text("{\n" + text + "\n}\n")
        return self.rows[key]


def table(data_sets: tuple[DataSet, ...], sizes: tuple[int, ...], draws: int, results: Results) -> Iterator[str]:
    """Right answers of all draws, by number of samples."""
    yield "| data | answer | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "|---" * (2 + len(sizes)) + "|"
    for data_set in data_sets:
        cells = []
        for size in sizes:
            seeds = range(draws if size in data_set.sizes else 0)
            rows = [
                results.row(f"{data_set.name}|{size}|{seed}", functools.partial(run, data_set, size, seed)) for seed in seeds
            ]
            few, right = sum(row["verdict"] == "too few data" for row in rows), sum(map(data_set.is_right, rows))
            cells.append((f"{right}" + (f" ({few} too few)" if few else "")) if rows else "")
        yield f"| {data_set.name} | {data_set.answer or data_set.verdict} | " + " | ".join(cells) + " |"


def counted(draw: Draw, size: int, draws: int) -> dict[str, Any]:
    """Verdicts of so many draws."""
    verdicts = [run(DataSet("", draw, "none"), size, seed)["verdict"] for seed in range(draws)]
    return {"draws": draws, **{verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}}


def false_table(draws: int, results: Results) -> Iterator[str]:
    """How often data without a symmetry are said to have one, and how often that is left open."""
    sizes = SIZES[:3]
    yield "| data | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "|---" * (1 + len(sizes)) + "|"
    for name, draw in WITHOUT.items():
        cells = []
        for size in sizes:
            row = results.row(f"{name}|{size}", functools.partial(counted, draw, size, draws))
            cells.append(f"{row.get('found', 0)} of {row['draws']} ({row.get('too few data', 0)} too few)")
        yield f"| {name} | " + " | ".join(cells) + " |"


def modulated(d: int, degree: int, size: float) -> Draw:
    """Directions of density 1 + size f, f the zonal harmonic of a degree about a random axis, of rms 1."""

    def drawn(count: int, random: torch.Generator) -> Tensor:
        u = torch.nn.functional.normalize(normal(4 * count, d, random=random), dim=1)
        axis = torch.nn.functional.normalize(normal(d, 1, random=random), dim=0)
        *_, (zonal, _) = gegenbauer((u @ axis)[:, 0], d, degree)
        scale = math.sqrt(harmonics_of(degree, d))
        kept = uniform(len(u), random=random) * (1 + size * scale) < 1 + size * scale * zonal
        return u[kept][:count] * (1 + 0.5 * uniform(count, 1, random=random))[: int(kept.sum())]

    return drawn


def power_table(draws: int, results: Results) -> Iterator[str]:
    """How often a break of a known size is seen, and the size that reports say would be in 95 %."""
    sizes, breaks = (1_000, 3_000, 10_000), (0.05, 0.1, 0.15, 0.2)
    yield "| broken | samples | stated | " + " | ".join(f"{size:g}" for size in breaks) + " |"
    yield "|---" * (3 + len(breaks)) + "|"
    for (d, degree), count in itertools.product(((2, 5), (3, 4), (5, 3)), sizes):
        rows = [
            results.row(f"{d}|{degree}|{count}|{size}", functools.partial(seen, modulated(d, degree, size), count, draws))
            for size in breaks
        ]
        cells = (f"{row['seen']:.2f}" for row in rows)
        yield f"| so({d}) at degree {degree} | {count:,} | {rows[0]['smallest_break']:.2f} | " + " | ".join(cells) + " |"


def seen(draw: Draw, count: int, draws: int) -> dict[str, float]:
    """The share of draws in which not all of so(d) is kept, and what reports on samples that keep it say they would show."""
    broken = 0
    for seed in range(draws):
        data = draw(count, torch.Generator().manual_seed(seed))
        found = symmetries_of(data, statistics="second_moments", resamplings=0)
        broken += found.verdict in (Verdict.NONE, Verdict.DISCRETE)
    kept = distribution(sphere(data.shape[1])(count, torch.Generator().manual_seed(0)))
    return {"seen": broken / draws, "smallest_break": kept.smallest_break or math.nan, "draws": draws}


def times_table(results: Results) -> Iterator[str]:
    """Seconds of this thread, 10,000 Gaussian samples."""
    yield "| d | dimension | seconds | verdict |"
    yield "|---|---|---|---|"
    for d in (2, 3, 4, 6, 8, 10, 12, 16):
        data_set = DataSet("", mixed(gaussian(d)), "found", f"so({d})", d * (d - 1) // 2)
        row = results.row(str(d), functools.partial(run, data_set, 10_000, 0))
        yield f"| {d} | {row['dimension']} | {row['seconds']:.1f} | {row['verdict']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=5)
    for choice in ("--null", "--power", "--times"):
        parser.add_argument(choice, action="store_true")
    parser.add_argument("--only", nargs="*", help="Names of data sets begin with one of these.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if arguments.times:
        lines = times_table(Results(RESULTS / "discovery-times.json"))
    elif arguments.power:
        lines = power_table(arguments.draws, Results(RESULTS / "discovery-power.json"))
    elif arguments.null:
        lines = false_table(arguments.draws, Results(RESULTS / "discovery-null.json"))
    else:
        chosen = tuple(one for one in DATA_SETS if not arguments.only or one.name.startswith(tuple(arguments.only)))
        lines = table(chosen, SIZES, arguments.draws, Results(RESULTS / "discovery.json"))
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
