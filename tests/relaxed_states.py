"""State dicts of relaxed layers made by hand, and what folding must make of them, by dense least squares."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from relaxify.record import Record
from relaxify.representations import Block
from relaxify.sites import Path

# irreps with two paths from scalars to scalars, as o3.Linear can have; its weight is flat
IRREPS = Record(
    path="layers.0.lin",
    aliases=(),
    adapter="e3nn",
    op="o3.Linear",
    group="O(3)",
    rep_in=(Block("0e", 2, 1), Block("1o", 3, 3), Block("0e", 1, 1)),
    rep_out=(Block("1o", 2, 3), Block("0e", 4, 1)),
    axes_in=(-1,),
    axes_out=(-1,),
    weight_keys=("weight",),
    paths=(
        Path("weight", 0, 1, 0, 0.5),
        Path("weight", 6, 0, 1, -0.3),
        Path("weight", 14, 0, 1, 0.4),
        Path("weight", 22, 2, 1, 2.0),
    ),
    base_shapes={"weight": (26,), "bias": (4,)},
    unfoldable=None,
)
# a Vector Neurons layer: vectors before channels, and a matrix of channels out x in
VECTORS = Record(
    path="vn.map_to_feat",
    aliases=(),
    adapter="vector_neurons",
    op="Linear",
    group="SO(3)",
    rep_in=(Block("vector", 3, 3, "component_major"),),
    rep_out=(Block("vector", 5, 3, "component_major"),),
    axes_in=(2, -1),
    axes_out=(2, -1),
    weight_keys=("weight",),
    paths=(Path("weight", 0, 0, 0, 1.0, "out_in"),),
    base_shapes={"weight": (5, 3)},
    unfoldable=None,
)


@dataclass(frozen=True)
class Relaxed:
    """One relaxed layer: its record, its own parameters, and its term."""

    record: Record
    base: Mapping[str, Tensor]
    term: Mapping[str, Tensor]

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        term = {f"relaxation.{name}": value for name, value in self.term.items()}
        entries = {**self.base, **term, "relaxation._extra_state": self.record.encode()}
        return {f"{prefix}{name}": value for name, value in entries.items()}

    def plain(self, prefix: str = "") -> dict[str, Tensor]:
        return {f"{prefix}{name}": value for name, value in self.base.items()}

    @property
    def relaxation(self) -> Tensor:
        """theta * W in float64."""
        factors = [self.term[key].double() for key in self.record.weight_keys]
        return float(self.term["theta"]) * (factors[0] if len(factors) == 1 else factors[0] @ factors[1])

    def folded(self) -> dict[str, Tensor]:
        """The layer's own parameters after folding, in float64."""
        result = {name: value.double().clone() for name, value in self.base.items()}
        for (name, entry, _), value in zip(expressible(self.record), self._coefficients(), strict=True):
            result[name].view(-1)[entry] += value
        return result

    def share(self) -> float | None:
        """|expressible part|^2 / |theta W|^2, None for theta W = 0."""
        part = sum(
            value * matrix for (*_, matrix), value in zip(expressible(self.record), self._coefficients(), strict=True)
        )
        total = float(self.relaxation.square().sum())
        return float(torch.as_tensor(part).square().sum()) / total if total else None

    def _coefficients(self) -> Tensor:
        columns = torch.stack([matrix.flatten() for *_, matrix in expressible(self.record)], dim=1)
        # by singular values, least squares has the least norm where two paths express the same
        solution: Tensor = torch.linalg.lstsq(columns, self.relaxation.flatten()[:, None], driver="gelsd").solution
        return solution.flatten()


def expressible(record: Record) -> list[tuple[str, int, Tensor]]:
    """(parameter, entry, the dense map that this entry multiplies), written out index by index."""
    maps = []
    for path in record.paths:
        into, out = record.rep_in[path.block_in], record.rep_out[path.block_out]
        start_in = sum(block.dim for block in record.rep_in[: path.block_in])
        start_out = sum(block.dim for block in record.rep_out[: path.block_out])
        for u in range(into.multiplicity):
            for v in range(out.multiplicity):
                in_out = path.order == "in_out"
                entry = path.offset + (u * out.multiplicity + v if in_out else v * into.multiplicity + u)
                matrix = torch.zeros(record.shape, dtype=torch.float64)
                for i in range(into.dimension):
                    matrix[start_out + feature(out, v, i), start_in + feature(into, u, i)] = path.scale
                maps.append((path.parameter, entry, matrix))
    return maps


def feature(block: Block, channel: int, component: int) -> int:
    if block.layout == "channel_major":
        return channel * block.dimension + component
    return component * block.multiplicity + channel


def relaxed_layer(
    record: Record = IRREPS,
    *,
    rank: int | None = None,
    theta: float = 0.7,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Relaxed:
    """A layer with random parameters and a random term."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    base = {name: random(*shape) for name, shape in record.base_shapes.items()}
    rows, columns = record.shape
    if rank is None:
        weights = {"weight": random(rows, columns)}
    else:
        record = replace(record, weight_keys=("up", "down"))
        weights = {"up": random(rows, rank), "down": random(rank, columns)}
    return Relaxed(record, base, {**weights, "theta": torch.tensor(theta, dtype=dtype)})


def save(state: Any, path: FilePath) -> FilePath:
    """Save in the format that the suffix says, by the libraries' own functions."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def load(path: FilePath) -> Any:
    return safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def digest(path: FilePath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], keys: Sequence[str] | None = None) -> None:
    """The same keys with tensors of the same dtype, shape and bits."""
    assert set(found) == set(expected if keys is None else keys)
    for key, value in found.items():
        assert value.dtype == expected[key].dtype, key
        assert value.shape == expected[key].shape, key
        assert bits(value) == bits(expected[key]), key


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if math.prod(tensor.shape) else b""
