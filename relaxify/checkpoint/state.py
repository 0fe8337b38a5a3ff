"""One state dict of a checkpoint, the terms stored in it, and what each contributes when it is folded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.checkpoint.data import Data, Made
from relaxify.grids.kernels import symmetrised
from relaxify.intertwiners import as_channels, fold_updates
from relaxify.modules.hanging import key_of, modules_at, owner_prefix
from relaxify.record import CheckpointError, Record
from relaxify.sites import Path
from relaxify.spans import Span, span_updates

# of a rank-r term, W = up @ down can be far larger than the file that holds it: 128 MiB, or what the file has in float64
FREE_ENTRIES = 2**24


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in a file: the name of its dtype, as torch has it, and its bytes, row by row."""

    dtype: str
    data: Data


@dataclass(frozen=True)
class StateDict:
    """A state dict whose tensors are loaded one at a time: their shapes by key, in order, and `load`.

    `stored` is a tensor that is still in the file. `where` are the keys that lead to the state dict in a nested checkpoint;
    `same_as` maps a key to an earlier key of the same memory; `file_size`, in bytes, bounds what may be made of it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], Tensor]
    stored: Callable[[str], Stored]
    where: tuple[str | int, ...] = ()
    same_as: Mapping[str, str] = field(default_factory=dict)
    file_size: int = 0

    @property
    def name(self) -> str:
        return ".".join(map(str, self.where))

    def size(self, keys: Iterable[str]) -> int:
        """Number of entries of these tensors, shared ones once."""
        return sum(math.prod(self.shapes[key]) for key in {self.same_as.get(key, key) for key in keys})

    def load_real(self, key: str) -> Tensor:
        """A tensor to compute with. CheckpointError unless it is floating point and its entries are all in the file."""
        tensor = self.load(key)
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"{key} holds no floating-point values but {tensor.dtype}; save the model again.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{key} has fewer entries in the file than its shape says; save the model again.")
        return tensor.detach().cpu()


def in_memory(tensors: Mapping[str, Tensor]) -> StateDict:
    """The state dict of tensors that are loaded."""

    def stored(key: str) -> Stored:
        tensor = tensors[key]
        return Stored(str(tensor.dtype).removeprefix("torch."), Made(tensor.nbytes, lambda: tensor))

    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return StateDict(shapes, tensors.__getitem__, stored, file_size=sum(value.nbytes for value in tensors.values()))


@dataclass(frozen=True)
class StoredTerm:
    """A term as it lies in a state dict, at its site's `prefix`.

    Its tensors are read from the prefix `owner`: another name of the same module where the file keeps shared tensors
    once. `aliases` are the prefixes of the modules that share its weight (None where that cannot be told).
    """

    state: StateDict
    prefix: str
    record: Record
    owner: str
    aliases: tuple[str | None, ...]

    @property
    def base_prefix(self) -> str:
        """The prefix of the layer's own parameters."""
        return owner_prefix(self.prefix, functional=self.record.functional)

    @property
    def path(self) -> str:
        return self.prefix.removesuffix(".") or "(root)"

    @property
    def weight_keys(self) -> tuple[str, ...]:
        return tuple(key_of(self.owner, name) for name in self.record.weight_keys)

    @property
    def theta_key(self) -> str:
        return key_of(self.owner, "theta")

    def modules(self) -> set[str]:
        """The paths of the modules that belong to this term and no base model."""
        return modules_at(self.prefix, functional=self.record.functional)

    def own_keys(self) -> set[str]:
        """All keys of the state dict that belong to this term and no base model."""
        names = (*self.record.weight_keys, "theta", "_extra_state")
        return {key for name in names if (key := key_of(self.prefix, name)) in self.state.shapes}

    def theta(self) -> float:
        return float(self.state.load_real(self.theta_key))

    def norm(self) -> float:
        """|W|, which for W = up @ down needs no W: |W|^2 = tr(up^T up down down^T)."""
        factors = [self.state.load_real(key) for key in self.weight_keys]
        if len(factors) == 1:
            return float(torch.linalg.vector_norm(factors[0], dtype=torch.float64))
        up, down = (factor.to(torch.float64) for factor in factors)
        if up.shape[1] > min(self.record.shape):
            return float(torch.linalg.vector_norm(up @ down))
        return math.sqrt(max(0.0, float(((up.mT @ up) * (down @ down.mT)).sum())))

    def updates(self) -> list[tuple[Path, Float[Tensor, "_"]]]:
        """What fold adds, path by path, in float64. CheckpointError if theta * W has NaN or infinite entries."""
        folded = fold_updates(self._relaxation(), self.record.rep_in, self.record.rep_out, self.record.paths)
        return list(zip(self.record.paths, folded, strict=True))

    def _relaxation(self) -> Float[Tensor, "n_out n_in"]:
        """theta * W in float64."""
        rows, columns = self.record.shape
        if rows * columns > FREE_ENTRIES + self.state.file_size:
            raise CheckpointError(f"{self.path}: its term of {rows} x {columns} is too large to fold; drop it instead.")
        factors = [self.state.load_real(key).to(torch.float64) for key in self.weight_keys]
        relaxation = (factors[0] if len(factors) == 1 else factors[0] @ factors[1]).mul_(self.theta())
        if not relaxation.isfinite().all():
            raise CheckpointError(
                f"{self.path}: its term has NaN or infinite entries, which cannot be folded; drop it, or convert an "
                f"earlier checkpoint."
            )
        return relaxation

    def _span_updates(self) -> tuple[list[tuple[Span, Int[Tensor, "*pairs"], Float[Tensor, "*pairs"]]], float]:
        """Of coefficients of a basis: where what is added, and the square of the map that it is."""
        (into,), (out,), spans = self.record.rep_in, self.record.rep_out, self.record.spans
        found, squared = span_updates(self._relaxation(), into, out, spans)
        return [(span, span.index(out, into), part) for span, part in zip(spans, found, strict=True)], squared

    def fold_into(self, key: str, parameter: str) -> Tensor:
        """The base parameter under `key`, in its dtype, with this term's updates to `parameter` added in float64.

        Or, of an ordinary convolution, its symmetric part.
        """
        base = self.state.load_real(key)
        if self.record.symmetriser:
            basis = torch.tensor(self.record.symmetriser, dtype=torch.float64)
            result = symmetrised(base, basis.mT @ basis)
            if not result.isfinite().all():
                raise CheckpointError(
                    f"the symmetric part of {key} has NaN or infinite entries, as the layer has them or they overflow; "
                    "convert an earlier checkpoint."
                )
            return result
        flat = base.to(torch.float64, copy=True).flatten()
        if self.record.spans:
            own = [
                (where.flatten(), part.flatten())
                for span, where, part in self._span_updates()[0]
                if span.parameter == parameter
            ]
            places = torch.cat([where for where, _ in own])
            if len(places.unique()) < len(places):
                raise CheckpointError(f"{key} would get two updates in one entry; drop the term instead.")
            flat[places] += torch.cat([part for _, part in own])
            return self._in_dtype(flat, base, key)
        for path, update in self.updates():
            if path.parameter == parameter:
                flat[path.offset : path.offset + len(update)] += update
        return self._in_dtype(flat, base, key)

    def _in_dtype(self, flat: Float[Tensor, " n"], base: Tensor, key: str) -> Tensor:
        result = flat.reshape(base.shape).to(base.dtype)
        if not result.isfinite().all():
            raise CheckpointError(f"{key} is not finite in {base.dtype} once folded; drop the term instead.")
        return result

    def folded_share(self) -> float | None:
        """|the part of theta W that fold keeps|^2 / |theta W|^2; None where theta W = 0."""
        record, total = self.record, (self.theta() * self.norm()) ** 2
        if record.spans:
            return self._span_updates()[1] / total if total else None
        kept: defaultdict[tuple[int, int], Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        for path, update in self.updates():
            joined = (path.block_in, path.block_out)
            channels = as_channels(update, path, record.rep_out[path.block_out], record.rep_in[path.block_in])
            kept[joined] = kept[joined] + path.scale * channels
        squared = sum(record.rep_in[into].dimension * float(part.square().sum()) for (into, _), part in kept.items())
        return squared / total if total else None
