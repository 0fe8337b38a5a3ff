"""SavedTerm: what a checkpoint keeps of a term beside its weights, and what is made of that when it is loaded."""

from __future__ import annotations

import abc
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from relaxify.record import MAX_INTEGER, Record
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.sketch import Sketch
from relaxify.relaxation.terms.attribute_range import LONGEST_REASON, NOTHING_SEEN
from relaxify.relaxation.terms.commutant import Commutant
from relaxify.relaxation.terms.copied import follow, note_load
from relaxify.sites import EquivariantMap, Path
from relaxify.spans import Span


class SavedTerm(nn.Module, abc.ABC):
    """The part of a term that is written and read."""

    path: str
    aliases: tuple[str, ...]
    map: EquivariantMap
    config: RelaxConfig
    base_shapes: dict[str, tuple[int, ...]]
    finished: bool
    theta: Tensor
    attribute_range: Tensor
    sketch: Sketch
    commutant: Commutant | None
    weight: nn.Parameter
    up: nn.Parameter

    @property
    @abc.abstractmethod
    def operand(self) -> str | None: ...

    @property
    @abc.abstractmethod
    def weight_keys(self) -> tuple[str, ...]: ...

    @property
    @abc.abstractmethod
    def dense(self) -> Float[Tensor, "n_out n_in"]: ...

    @abc.abstractmethod
    def record_paths(self) -> tuple[tuple[Path, ...], str | None]: ...

    @abc.abstractmethod
    def _spans(self) -> tuple[Span, ...]: ...

    def record(self) -> Record:
        """What a checkpoint says of this term, so that it can be projected without the model's code."""
        paths, unfoldable = self.record_paths()
        return Record(
            path=self.path,
            aliases=self.aliases,
            adapter=self.map.adapter,
            op=self.map.op,
            group=self.map.group.name,
            rep_in=self.map.rep_in.blocks,
            rep_out=self.map.rep_out.blocks,
            axes_in=self.map.features_in.axes,
            axes_out=self.map.features_out.axes,
            weight_keys=self.weight_keys,
            paths=paths,
            base_shapes=self.base_shapes,
            unfoldable=unfoldable,
            updates=self.sketch.updates,
            functional=self.operand is not None,
            attribute=self._seen_attribute(),
            spans=self._spans(),
        )

    def _seen_attribute(self) -> tuple[float, ...] | None:
        """Between which values the scalar attribute was in training, if there is one; nothing before."""
        low, high = self.attribute_range.tolist()
        return None if self.map.attribute is None else (low, high) if low <= high else ()

    def get_extra_state(self) -> Tensor:
        """The record, in as many bytes at every step: loops that average a state dict copy entry into entry."""
        record = self.record()
        data, length = record.encode(), len(self._longest(record).encode())
        return functional.pad(data, (0, max(length - len(data), 0)), value=ord(" "))

    def _longest(self, record: Record) -> Record:
        """The record with whatever changes in training at its longest."""
        if self.map.attribute is None:
            return replace(record, updates=MAX_INTEGER)
        paths = tuple(replace(path, scale=-1.2345678901234567e-29) for path in self.map.paths)
        extremes = (-sys.float_info.max,) * 2
        reason = max(LONGEST_REASON, self.map.unfoldable or "", key=len)
        return replace(record, updates=MAX_INTEGER, paths=paths, unfoldable=reason, attribute=extremes)

    def checked(self, state: object) -> Record:
        """The record in a saved state. ValueError if it is none, or of a term of another kind; nothing changes."""
        saved, own = Record.decode(state), self.record()
        for name in ("group", "rep_in", "rep_out", "axes_in", "axes_out", "weight_keys"):
            ours, theirs = getattr(own, name), getattr(saved, name)
            if ours != theirs:
                raise ValueError(
                    f"the checkpoint's relaxation of {self.path!r} has {name} {_words(theirs)} but the model's has "
                    f"{_words(ours)}; relax the model as it was when the checkpoint was saved."
                )
        return saved

    def set_extra_state(self, state: Tensor) -> None:
        saved = self.checked(state)
        self.sketch.updates = saved.updates
        if self.map.attribute is not None:
            self.attribute_range = self.attribute_range.new_tensor(self._attribute_of(saved))

    def _attribute_of(self, saved: Record) -> tuple[float, ...]:
        """The range of the scalar attribute before a checkpoint, which older ones do not hold."""
        if saved.attribute is not None:
            return saved.attribute or NOTHING_SEEN
        if saved.paths:
            constant = saved.paths[0].scale / self.map.paths[0].scale
            return constant, constant
        # one that was seen, and left nothing to fold by, was not constant
        largest = torch.finfo(self.theta.dtype).max / 2
        return (-largest, largest) if saved.updates and self.map.unfoldable is None else NOTHING_SEEN

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """W as it acts, so that a checkpoint means the same wherever it is read."""
        follow([self])
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.commutant is not None and not keep_vars:
            destination[f"{prefix}weight"] = self.dense.detach()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """A base checkpoint has none of this term's keys, which means W = 0."""
        self.finished = False
        if not any(key.startswith(prefix) for key in state_dict):
            with torch.no_grad():
                (self.weight if self.config.rank is None else self.up).zero_()
            return
        super()._load_from_state_dict(state_dict, prefix, *args)
        note_load(self)


def _words(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
