"""How reports are written down: as JSON, without numbers that it lacks, and as pages of one design that need no network."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

SMALLEST_ERROR, LONGEST_BAR = 1e-17, 6.0


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page of `templates/`, to be filled with a report's plain data."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("relaxify"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "bar_width": _bar_width,
        "part": _part,
        "file_name": _file_name,
        "by_reason": _by_reason,
    }
    return environment.get_template(f"{name}.html.j2")


def finite(value: Any) -> Any:
    """Plain data with None in the place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [finite(item) for item in value]
    return value


def _by_reason(rejected: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Candidates with one reason stand together, in the order of the first of them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for each in rejected:
        found.setdefault(each["reason"], []).append(each)
    return list(found.items())


def _file_name(location: str) -> str:
    return Path(location).name


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _part(value: float) -> str:
    """How red a cell is: the logarithm of the error, from 1e-4 to 1."""
    return f"{min(max(1 + math.log10(value) / 4, 0.0), 1.0) if value > 0 else 0.0:.2f}"


def _bar_width(value: float) -> str:
    """The length of a bar, in em: the logarithm of the error, from 1e-17 to 1."""
    share = 0.0 if not value > 0 else min(max(1 - math.log(value) / math.log(SMALLEST_ERROR), 0.0), 1.0)
    return f"{LONGEST_BAR * share:.2f}"
