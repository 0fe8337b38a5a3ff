"""Arguments and options that several commands have, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Factory = Annotated[str, typer.Argument(metavar="PKG.MOD:FACTORY", help="What makes the model; or path/to/file.py:factory.")]
INPUTS_HELP = (
    "Example inputs of the model's forward: a file whose keys are the names of its arguments, or 0, 1, ... in their order; "
    "or what makes one argument, a tuple of them, or a dict by name."
)
Action = Annotated[
    str | None,
    typer.Option(
        metavar="PKG.MOD:FUNCTION", help="(g, inputs) -> inputs moved by g; default: axes of the group's size are vectors."
    ),
]
Irreps = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=IRREPS", help="What an input carries on its last axis, such as x=8x0e+8x1o; may be repeated."
    ),
]
OutputAction = Annotated[
    str | None,
    typer.Option(metavar="PKG.MOD:FUNCTION", help="(g, output) -> output moved by g. Default: as is measured."),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="OUT.html", help="Write the report as a page.")]
Include = Annotated[list[str] | None, typer.Option(help="Only layers at paths of this pattern; may be repeated.")]
Exclude = Annotated[list[str] | None, typer.Option(help="No layer at paths of this pattern; may be repeated.")]
