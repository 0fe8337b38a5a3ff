"""Where a statement stands: the innermost code of a model that is neither PyTorch's nor ours, or else PyTorch's layer."""

from __future__ import annotations

import functools
import os
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import fx, nn

from relaxify.graph import inputs

# the last is relaxify itself
_PACKAGES = (Path(torch.__file__).parent, Path(jaxtyping.__file__).parent, Path(__file__).parents[1])
_LIBRARIES = tuple(f"{package}{os.sep}" for package in _PACKAGES)
_LAYERS = str(Path(nn.__file__).parent / "modules")
_CALLING = nn.Module.__call__.__code__.co_filename
_CALLER = (inputs.__file__, "call")
_GENERATED = "<eval_with_key>"
"""How torch.fx names the code of a graph."""
_INTERPRETER = fx.Interpreter.run_node.__code__.co_filename


@functools.cache
def is_own_code(file: str) -> bool:
    """Whether a file is a user's, or a model library's."""
    return not file.startswith((*_LIBRARIES, "<"))


def location() -> str:
    """file:line of the innermost running statement of a model's code; of torch's layer, if no other code called it."""
    frame: Any = sys._getframe(1)
    layer = ""
    # the model's caller does not count
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != _CALLER:
        file = frame.f_code.co_filename
        if is_own_code(file):
            return f"{file}:{frame.f_lineno}"
        if (file.startswith(_GENERATED) or file == _INTERPRETER) and (place := _place_in_graph(frame)):
            return place
        if not layer and file.startswith(_LAYERS) and file != _CALLING:
            layer = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return layer


def _place_in_graph(frame: Any) -> str:
    """The statement that the running node of a graph was traced from, or else the node's name; "" if no graph runs here."""
    node = _running_node(frame)
    if node is None:
        return ""
    traced = re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")
    own = [f"{file}:{line}" for file, line in traced if is_own_code(file)]
    return own[-1] if own else f"%{node.name}"


def _running_node(frame: Any) -> fx.Node | None:
    """Which node of a graph runs in a frame: of the code generated from it, or of torch.fx's interpreter."""
    code = frame.f_code
    if code.co_name == "run_node" and code.co_filename == _INTERPRETER:
        return frame.f_locals.get("n")
    module = frame.f_locals.get("self") if code.co_filename.startswith(_GENERATED) else None
    if not isinstance(module, fx.GraphModule):
        return None
    return _nodes_by_line(module).get(frame.f_lineno - getattr(module, "_prologue_start", 0))


def _nodes_by_line(module: fx.GraphModule) -> dict[int, fx.Node]:
    lines = getattr(module, "_lineno_map", None) or {}
    known, nodes = _KNOWN.get(module, (None, {}))
    if known is not lines:
        listed = list(module.graph.nodes)
        nodes = {line: listed[index] for line, index in lines.items() if index is not None and index < len(listed)}
        _KNOWN[module] = lines, nodes
    return nodes


_KNOWN: weakref.WeakKeyDictionary[fx.GraphModule, tuple[Any, dict[int, fx.Node]]] = weakref.WeakKeyDictionary()
