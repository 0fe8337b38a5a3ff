"""Notebooks without Jupyter: cells run in order in one namespace.

`python tests/notebooks.py docs/notebooks/*.ipynb` saves in each what it puts out now.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import linecache
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

Output = dict[str, Any]


def run(notebook: dict[str, Any]) -> list[list[Output]]:
    """What each cell of code puts out, as the notebook format writes it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    return [
        _run("".join(cell["source"]), f"cell-{index}.py", namespace) for index, cell in enumerate(code_cells(notebook), 1)
    ]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(outputs: list[Output]) -> str:
    """What is printed, and what values say of themselves where they have no picture."""
    return "".join(_text(output) for output in outputs)


def _text(output: Output) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "" if "image/png" in output["data"] else "".join(output["data"]["text/plain"]) + "\n"


def _run(source: str, name: str, namespace: dict[str, Any]) -> list[Output]:
    # so that tracebacks and reports find the lines
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), name, "exec", dont_inherit=True), namespace)
        value = None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    stream = {"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(keepends=True)}
    shown = {"data": _data(value), "execution_count": None, "metadata": {}, "output_type": "execute_result"}
    return [stream] * bool(printed.getvalue()) + [shown] * (value is not None)


def _data(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "savefig"):
        value.savefig(drawn := io.BytesIO(), format="png", dpi=80, bbox_inches="tight")
        # plots have few colours, and a notebook is text: a palette makes them a fifth as long
        Image.open(drawn).convert("RGB").quantize(64).save(file := io.BytesIO(), "png", optimize=True)
        data["image/png"] = base64.b64encode(file.getvalue()).decode()
    elif hasattr(value, "_repr_html_"):
        # where packages are installed is nobody's business
        page = re.sub(r"[^\s&;>]*/site-packages/", "", value._repr_html_())
        data["text/html"] = page.splitlines(keepends=True)
    return data


def save(path: Path) -> None:
    """Write into the notebook what its cells put out now."""
    notebook = json.loads(path.read_text())
    for cell, outputs in zip(code_cells(notebook), run(notebook), strict=True):
        cell["outputs"] = outputs
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        save(Path(name))
