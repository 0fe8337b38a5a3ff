"""What `relaxify symmetry` was asked for, whether that goes together, and the search that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaxify_cli.families import family_of, read_edges

if TYPE_CHECKING:
    from torch import Tensor

    from relaxify.lconv import FamilySymmetry, Symmetry
    from relaxify_cli.samples import Samples

Found = tuple["Symmetry | FamilySymmetry", "Tensor", dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """The options that say what is looked for."""

    family: str | None
    edges: str | None
    affine: bool
    pairs: str | None
    distribution: bool
    second_moments: bool
    center: bool
    resamplings: int
    seed: int
    against: tuple[str, ...] = ()

    def check(self, labels: str | None) -> None:
        """ValueError for options of which one leaves no room for another."""
        others = {
            "--family": self.family is not None,
            "--pairs": self.pairs is not None,
            "--affine": self.affine,
            "--distribution": self.distribution,
            "--second-moments": self.second_moments,
        }
        chosen = [name for name, given in others.items() if given]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]} and {chosen[1]} ask for different searches; give one of them.")
        if self.pairs is not None and labels is not None:
            raise ValueError("--pairs names what samples have become, which has no --labels; give one of them.")
        if self.family is not None and self.against:
            raise ValueError("--against compares matrices, and --family needs none; give one of them.")
        if self.edges is not None and self.family is None:
            raise ValueError("--edges are those of --family graph; give that, or leave them out.")


def find(asked: Asked, given: Samples, path: Path) -> Found:
    """The report, the samples as it took them, and what its methods are told of algebras that are known."""
    import torch

    from relaxify.lconv import symmetries_of, symmetry_of_pairs

    samples = torch.from_numpy(given.X)
    Y = None if given.Y is None else torch.from_numpy(given.Y)
    if asked.family is not None:
        edges = None if asked.edges is None else read_edges(path, asked.edges)
        family, samples = family_of(asked.family, samples, edges)
        found = symmetries_of(samples, Y, generators=family, center=asked.center, seed=asked.seed)
        return found, _with_channels(samples, found.space), {}
    # images are vectors of their pixels; on (n, vectors, d) one action is common
    X = samples.flatten(1) if samples.ndim > 3 or asked.pairs else samples
    known = {"known": _known(asked.against, X.shape[-1] + asked.affine)}
    if asked.pairs is not None:
        if Y is None or Y.numel() != X.numel():
            shape = None if Y is None else tuple(Y.shape)
            raise ValueError(
                f"--pairs: {asked.pairs} has shape {shape} and samples {tuple(samples.shape)}; save as many of both."
            )
        return symmetry_of_pairs(X, Y.reshape(X.shape), center=asked.center, seed=asked.seed), samples, known
    if asked.affine and Y is None:
        raise ValueError("--affine is about what labels say of points; name them with --labels, or save them as Y.")
    options: dict[str, Any] = {"affine": True} if asked.affine else {}
    if asked.distribution or asked.second_moments:
        options = {"statistics": "distribution" if asked.distribution else "second_moments"}
    result = symmetries_of(X, Y, center=asked.center, resamplings=asked.resamplings, seed=asked.seed, **options)
    return result, samples, known


def _with_channels(samples: Tensor, space: tuple[int, ...]) -> Tensor:
    """As a page draws them: images with their channels, others as they are."""
    return samples.reshape(len(samples), -1, *space) if len(space) == 2 else samples


def _known(names: tuple[str, ...], d: int) -> dict[str, Any]:
    from relaxify.lconv.symmetry.by_name import named

    found = {}
    for name in names:
        try:
            found[name] = named(name, d)
        except ValueError as error:
            raise ValueError(f"--against {name}: {error}") from error
    return found
