"""The report as one HTML page: `templates/inspection.html.j2`, filled with the report's plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relaxify.pages import template
from relaxify.rendered import made_with


def page_of(report: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """The whole page, of what `Report.to_dict` and `about` return."""
    return template("inspection").render(report=report, header=made_with() | dict(about), tree=_tree(report["modules"]))


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
