"""The report as one HTML page that needs no network: `templates/report.html.j2`, filled with the report's plain data."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

SMALLEST_ERROR, LONGEST_BAR = 1e-17, 6.0


def page_of(report: Mapping[str, Any]) -> str:
    """The whole page, of what `Report.to_dict` returns."""
    return _template().render(report=report, tree=_tree(report["modules"]))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("relaxify.inspection"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "bar_width": _bar_width, "file_name": lambda location: Path(location).name}
    return environment.get_template("report.html.j2")


def _tree(modules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The modules under the model itself, each with its nearest recorded descendants as its `children`.

    Containers that are never called are not recorded, and have no branch.
    """
    root = {"path": "", "type": "", "transforms": ""}
    branches = {module["path"]: {**module, "children": []} for module in (root, *modules)}
    for path, branch in branches.items():
        if path:
            parent = path.rpartition(".")[0]
            while parent not in branches:
                parent = parent.rpartition(".")[0]
            branches[parent]["children"].append(branch)
    return branches[""]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _bar_width(value: float) -> str:
    """The length of a bar, in em: the logarithm of the error, from 1e-17 to 1."""
    share = 0.0 if not value > 0 else min(max(1 - math.log(value) / math.log(SMALLEST_ERROR), 0.0), 1.0)
    return f"{LONGEST_BAR * share:.2f}"
