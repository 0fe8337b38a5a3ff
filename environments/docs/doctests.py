"""Examples in docstrings as blocks of code: what a doctest is, a Markdown page would take for a quotation."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences every example, up to the empty line that ends it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """The docstring with its doctests in fences."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        begins, ends = not inside and line.lstrip().startswith(">>>"), inside and not line.strip()
        if begins:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```pycon")
        elif ends:
            lines.append(f"{indent}```")
        inside = begins or (inside and not ends)
        lines.append(line)
    return "\n".join([*lines, f"{indent}```"] if inside else lines)
