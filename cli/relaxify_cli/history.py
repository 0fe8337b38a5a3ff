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
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="Where to write the figure.")],
    quantity: Annotated[
        str, typer.Option(metavar="QUANTITY", help="theta, norm, share (of the output) or equivariant (|P W| / |W|).")
    ] = "share",
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.png.")] = False,
) -> None:
    """Plot a quantity of each layer's term over the steps of training, from the log of a Monitor."""
    from relaxify.output import check_target
    from relaxify_cli.plots import history, save_figure

    check_target(output, inputs=(log,), force=force)
    save_figure(history(log, quantity), output, inputs=(log,), force=force)
    say(f"{printable(str(output))}: {quantity} over training")
