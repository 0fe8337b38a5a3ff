"""Programs of torch.export, taken as the modules that they are, with the example inputs that they were made from."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from relaxify.graph.inputs import Inputs

AnyModel: TypeAlias = "nn.Module | ExportedProgram"


def opened(model: AnyModel, inputs: Any = None) -> tuple[nn.Module, Any]:
    """A program's module, and the program's own example inputs if there are none; any other model and inputs as they are.

    >>> layer = nn.Linear(2, 2)
    >>> opened(layer, 1) == (layer, 1)
    True
    """
    if not is_program(model):
        return model, inputs  # type: ignore[return-value]
    module = model.module()  # type: ignore[operator]
    return module, _own_inputs(model, module) if inputs is None else inputs


def is_program(model: object) -> bool:
    """Whether it is a torch.export.ExportedProgram; whoever has one has imported its module."""
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(model, export.ExportedProgram)


def _own_inputs(program: Any, module: nn.Module) -> Inputs | None:
    if program.example_inputs is None:
        return None
    args, keywords = program.example_inputs
    if not keywords:
        return tuple(args)
    return dict(inspect.signature(module.forward).bind(*args, **keywords).arguments)
