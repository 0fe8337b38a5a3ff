"""Symmetries of what labels say, with known answers: dimension, name and verdict by number of samples.

python -m benchmarks.discovery_labels [--draws 1] [--sizes 300 ... ] [--only NAME ...]
python -m benchmarks.discovery_labels --null [--draws 16] [--sizes 2000]

Samples are Gaussian, in random coordinates, so that their distribution keeps other groups than the labels do; a tenth of the
labels' spread is noise. The second form draws functions without a symmetry, of twelve kinds: "found" is an error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.discovery import RESULTS, SIZES, DataSet, Results, normal, run, table, uniform
from relaxify.lconv import Symmetry, symmetries_of

Function = Callable[[Tensor], Tensor]
NOISE = 0.1
SIGNS = torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64)


def find(data: tuple[Tensor, Tensor], **options: Any) -> Symmetry:
    return symmetries_of(*data, **options)


def labelled(f: Function, *shape: int, centre: float = 0.0, mixed: bool = True) -> Callable[..., tuple[Tensor, Tensor]]:
    """Samples of a shape in coordinates of their own, with the noisy values of f."""

    def drawn(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        z, d = normal(count, *shape, random=random) + centre, shape[-1]
        frame = torch.eye(d, dtype=torch.float64) + (normal(d, d, random=random) / (2 * math.sqrt(d)) if mixed else 0)
        y = f(z)
        if y.is_floating_point():
            y = y + NOISE * y.std(0) * normal(*y.shape, random=random)
        return z @ frame.mT, y

    return drawn


def minkowski(x: Tensor, y: Tensor) -> Tensor:
    return (x * SIGNS * y).sum(-1)


def four_vectors(x: Tensor) -> Tensor:
    """Of the invariant masses of two, and of their product."""
    a, b = x.unbind(1)
    return (minkowski(a, a) / 2).sin() + 0.3 * minkowski(a, b) * (minkowski(b, b) / 2).tanh()


def on_shell(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two four-momenta of mass one, and the cross section of their invariant mass."""
    p = normal(count, 2, 3, random=random)
    x = torch.cat([(1 + p.square().sum(-1, keepdim=True)).sqrt(), p], -1)
    y = (minkowski(x[:, 0], x[:, 1]) / 3).tanh()
    return x, y + NOISE * y.std() * normal(count, random=random)


def as_complex(x: Tensor) -> Tensor:
    """(n, vectors, 4) as vectors of C^2."""
    return torch.complex(x[..., :2], x[..., 2:])


def hermitian(x: Tensor) -> Tensor:
    a, b = as_complex(x).unbind(1)
    return (a.conj() * b).sum(-1)


def of_u2(x: Tensor) -> Tensor:
    return hermitian(x).abs() + 0.3 * as_complex(x)[:, 0].abs().square().sum(-1)


def of_su2(x: Tensor) -> Tensor:
    """Hermitian product and determinant."""
    determinant = torch.linalg.det(as_complex(x))
    return hermitian(x).real + 2 * hermitian(x).imag * determinant.real + (2 * determinant.imag).sin()


def symplectic(x: Tensor) -> Tensor:
    a, b = x.unbind(1)
    return ((a[:, :2] * b[:, 2:]).sum(1) - (a[:, 2:] * b[:, :2]).sum(1)).tanh()


def of_directions(x: Tensor) -> Tensor:
    u = torch.nn.functional.normalize(x, dim=1)
    return u[:, 0] * u[:, 1] + u[:, 2] ** 3 + u[:, 0]


def of_two_lengths(x: Tensor) -> Tensor:
    r, s = x[:, :3].norm(dim=1), x[:, 3:].norm(dim=1)
    return r.sin() + s * (-r / 2).exp()


def distances(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple((x[:, i] - x[:, j]).norm(dim=-1) for i, j in ((0, 1), (1, 2), (0, 2)))  # type: ignore[return-value]


def of_distances(x: Tensor) -> Tensor:
    a, b, c = distances(x)
    return a + b.sin() * c


def of_shape(x: Tensor) -> Tensor:
    """Of a triangle: the sine of an angle, and the ratio of sides."""
    a, b, c = distances(x)
    u, v = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
    return (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / (a * c) + (a / b).log().tanh()


def harmonic(k: int) -> Function:
    return lambda x: x.norm(dim=1).sin() + x.norm(dim=1) * (k * torch.atan2(x[:, 1], x[:, 0])).cos()


def cross_and_first(x: Tensor) -> Tensor:
    return torch.linalg.cross(x[:, 0], x[:, 1]) + x[:, 0] * (x[:, 0] * x[:, 1]).sum(-1, keepdim=True).tanh()


def without(x: Tensor) -> Tensor:
    return (x[:, 0] + x[:, 1] * x[:, 2]).tanh() + 0.5 * (2 * x[:, 1]).sin() + 0.3 * (x[:, 2] - x[:, 0]).cos()


def classes_by_mass(x: Tensor) -> Tensor:
    """Three, with borders at invariant masses."""
    return torch.bucketize(minkowski(x, x), torch.tensor([0.0, 2.5], dtype=torch.float64))


def lorentz(name: str, draw: Any) -> DataSet:
    return DataSet(name, draw, "found", "so(1,3)", 6, find)


DATA_SETS: tuple[DataSet, ...] = (
    lorentz("SO(1,3), a four-vector", labelled(lambda x: (minkowski(x, x) / 2).tanh(), 4)),
    lorentz("SO(1,3), two four-vectors", labelled(four_vectors, 2, 4)),
    lorentz("SO(1,3), momenta on shell", on_shell),
    lorentz("SO(1,3), classes", labelled(classes_by_mass, 4)),
    DataSet("Sp(4), two vectors", labelled(symplectic, 2, 4), "found", "sp(4)", 10, find),
    DataSet("SL(2), two vectors", labelled(lambda x: torch.linalg.det(x).cos(), 2, 2), "found", "sl(2)", 3, find),
    DataSet(
        "SO(3), cross product's length",
        labelled(lambda x: torch.linalg.cross(x[:, 0], x[:, 1]).norm(dim=-1), 2, 3), "found", "so(3)", 3, find,
    ),
    DataSet("SO(3), labels turn along", labelled(cross_and_first, 2, 3), "found", "so(3)", 3, find),
    DataSet("SU(2), two spinors", labelled(of_su2, 2, 4), "found", "su(2)", 3, find, known=("so(3)",)),
    DataSet("U(2), two spinors", labelled(of_u2, 2, 4), "found", "u(2)", 4, find),
    DataSet("scaling", labelled(of_directions, 3), "found", "scaling", 1, find),
    DataSet("SO(3) x SO(2)", labelled(of_two_lengths, 5), "found", "so(3) + so(2)", 4, find),
    DataSet("SO(2), one ignored", labelled(lambda x: x[:, :2].norm(dim=1).sin(), 3), "found", "so(2) + ignored(1)", 4, find),
    DataSet("E(2), three points", labelled(of_distances, 3, 2, centre=2), "found", "e(2)", 3, partial(find, affine=True)),
    DataSet("E(3), three points", labelled(of_distances, 3, 3, centre=2), "found", "e(3)", 6, partial(find, affine=True)),
    DataSet("similarity, triangles", labelled(of_shape, 3, 2, centre=2), "found", "sim(2)", 4, partial(find, affine=True)),
    DataSet("C(3)", labelled(harmonic(3), 2, mixed=False), "discrete", "C(3)", find=find),
    DataSet("C(8)", labelled(harmonic(8), 2, mixed=False), "discrete", "C(8)", find=find),
    DataSet("none", labelled(without, 3), "none", find=find),
)  # fmt: skip


def network(d: int, outputs: int, random: torch.Generator, gain: float = 1.5) -> Function:
    """With random weights."""
    a, b, c = (normal(i, o, random=random) / math.sqrt(i) for i, o in ((d, 16), (16, 16), (16, outputs)))
    u, v = normal(16, random=random), normal(16, random=random)
    return lambda x: (((gain * x @ a + u).tanh() @ (gain * b) + v).tanh() @ c).squeeze(-1)


def of_network(*shape: int, outputs: int = 1) -> Callable[[torch.Generator], tuple[Function, tuple[int, ...]]]:
    def made(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
        f = network(math.prod(shape), outputs, random)
        return (lambda x: f(x.flatten(1))), shape

    return made


def cubic(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    t, q, p = normal(3, 3, 3, random=random) / 2, normal(3, 3, random=random), normal(3, random=random)
    return lambda x: torch.einsum("ni,nj,nk,ijk->n", x, x, x, t) + torch.einsum("ni,nj,ij->n", x, x, q) + x @ p, (3,)


def waves(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    w, phase = normal(3, 6, random=random), 2 * math.pi * uniform(6, random=random)
    return lambda x: (x @ w + phase).cos().sum(1), (3,)


def steps(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    w, at, height = normal(2, 5, random=random), normal(5, random=random), normal(5, random=random)
    return lambda x: (x @ w > at).double() @ height, (2,)


def classes(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    f = network(3, 3, random, gain=2)
    return lambda x: f(x).argmax(1), (3,)


def additive(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    rate, phase = 1 + normal(3, random=random).abs(), normal(3, random=random)
    return lambda x: (rate * x + phase).sin().sum(1) + 0.3 * x[:, 0] ** 2, (3,)


def bump(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    """Away from the origin, on a slope."""
    at, frame, slope = normal(3, random=random) + 1, normal(3, 3, random=random), normal(3, random=random)
    return lambda x: (-((x - at) @ frame).square().sum(1) / 2).exp() + 0.5 * (x @ slope).tanh(), (3,)


def products(random: torch.Generator) -> tuple[Function, tuple[int, ...]]:
    a, b, c = normal(3, random=random).abs() + 0.5
    return lambda x: a * x[:, 0] * x[:, 1] + (2 * b * x[:, 2] + x[:, 3] ** 2).tanh() + c * x[:, 3] * x[:, 0] ** 2, (4,)


WITHOUT: dict[str, Any] = {
    "networks of 2": of_network(2), "networks of 4": of_network(4), "networks of pairs": of_network(2, 2),
    "networks with 2 outputs": of_network(3, outputs=2), "networks of points, affine": of_network(3, 2),
    "cubic": cubic, "waves": waves, "steps": steps, "classes": classes, "additive": additive, "bumps": bump,
    "products": products,
}  # fmt: skip
"""Random functions without a symmetry."""


def without_symmetry(make: Any, affine: bool) -> DataSet:
    def drawn(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        f, shape = make(random)
        return labelled(f, *shape, mixed=False)(count, random)

    return DataSet("", drawn, "none", find=partial(find, affine=affine))


def null_row(name: str, size: int, draws: int, results: Results) -> str:
    """How often functions without a symmetry are said to have one, and how often that is left open."""
    data_set = without_symmetry(WITHOUT[name], name.endswith("affine"))
    rows = [results.row(f"{name}|{size}|{seed}", partial(run, data_set, size, seed)) for seed in range(draws)]
    verdicts = [row["verdict"] for row in rows]
    counts = [verdicts.count(verdict) for verdict in ("found", "discrete", "none", "too few data")]
    return f"| {name} | {size:,} | " + " | ".join(str(count) for count in counts) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--only", nargs="*", help="Names of data sets begin with one of these.")
    parser.add_argument("--null", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    chosen = tuple(arguments.only or ("",))
    if arguments.null:
        results = Results(RESULTS / "discovery-labels-null.json")
        print("| functions | samples | found | discrete | none | too few data |\n|---|---|---|---|---|---|", flush=True)
        for name in (name for name in WITHOUT if name.startswith(chosen)):
            for size in arguments.sizes:
                print(null_row(name, size, arguments.draws, results), flush=True)
        return
    sets = tuple(one for one in DATA_SETS if one.name.startswith(chosen))
    for line in table(sets, tuple(arguments.sizes), arguments.draws, Results(RESULTS / "discovery-labels.json")):
        print(line, flush=True)


if __name__ == "__main__":
    main()
