"""Programs of torch.export, taken as the modules that they are, with the example inputs that they were made from."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import nn
from torch.export import ExportedProgram

AnyModel: TypeAlias = nn.Module | ExportedProgram


def opened(model: AnyModel, inputs: Any = None) -> tuple[nn.Module, Any]:
    """A program's module, and the program's own example inputs if there are none; any other model and inputs as they are.

    >>> import torch
    >>> program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    >>> opened(program)[1], opened(program, 5)[1]
    ((tensor([[1., 1.]]),), 5)
    """
    if not isinstance(model, ExportedProgram):
        return model, inputs
    return model.module(), _own_inputs(model) if inputs is None else inputs


def _own_inputs(program: ExportedProgram) -> tuple[Any, ...] | dict[str, Any] | None:
    args, keywords = program.example_inputs or ((), {})
    if args and keywords:
        raise ValueError(
            "the program takes some inputs by position and some by keyword, and is run with all of one kind here; "
            "export it with all by position."
        )
    return tuple(args) or dict(keywords) or None
