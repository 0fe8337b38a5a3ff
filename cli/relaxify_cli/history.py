"""`relaxify history`: a figure of what the terms of a relaxed model did over training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relaxify_cli.errors import printable
from relaxify_cli.reporting import say

EXAMPLE = "relaxify history terms.csv --output terms.png --quantity share"


def history(
    log: Annotated[Path, typer.Argument(metavar="LOG.csv", help="What a relaxify Monitor wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.png", help="Where to write the figure; LOG.png by default.")
    ] = None,
    quantity: Annotated[
        str | None,
        typer.Option(
            metavar="QUANTITY",
            help="theta, share (of the output), error, loss, penalty, norm or equivariant (|P W| / |W|); by default the "
            "first five, one below the other.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.png.")] = False,
) -> None:
    """Plot what each layer's term did over the steps of training, from the log of a Monitor: theta, its share, the error."""
    from relaxify.output import check_target
    from relaxify_cli.plots import history, save_figure

    output = output or log.with_suffix(".png")
    check_target(output, inputs=(log,), force=force)
    save_figure(history(log, quantity), output, inputs=(log,), force=force)
    say(f"{printable(str(output))}: {quantity or 'what the terms did'} over training")
