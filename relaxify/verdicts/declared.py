"""As what outputs say themselves that they transform: escnn's geometric tensors, by their field types."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from relaxify.grids.pixels import Pixels, acts_on_grid, is_image
from relaxify.groups import Group
from relaxify.verdicts.candidates import Way
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.features import of_field_type


def declared(group: Group, output: Any) -> dict[str, Way]:
    """The ways of those of an output's tensors that name one, by their places; none under a group that types do not know."""
    if not len(group.finite) or len(group.generators) or not acts_on_grid(group):
        return {}
    typed = {name: value for name, value in _typed(output, "output") if _knows(value.type, group)}
    return {f"{name}.tensor": _way(value.tensor, value.type) for name, value in typed.items()}


def _typed(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if hasattr(getattr(value, "type", None), "representations") and isinstance(getattr(value, "tensor", None), Tensor):
        yield name, value
    elif isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _typed(part, f"{name}.{key}")


def _knows(field_type: Any, group: Group) -> bool:
    try:
        return all(len(of_field_type(field_type, g)) for g in group.finite)
    except ValueError:
        return False


def _way(tensor: Tensor, field_type: Any) -> Way:
    counts = Counter(representation.name for representation in field_type.representations)
    name = "field of " + " + ".join(f"{count}x{each}" for each, count in counts.items())
    matrix = functools.partial(of_field_type, field_type)
    if not is_image(tensor):
        return Way(name, (1 - tensor.ndim,), matrix)
    pixels = Pixels(-2, tensor.shape[-1])

    def move(g: Draw, value: Tensor) -> Tensor:
        return pixels.move(g.matrix, value, tensor.shape[-1])

    return Way(name, (1 - tensor.ndim,), matrix, place=move, place_name="on pixels that move")
