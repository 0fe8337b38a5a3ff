"""`relaxify lconv`: a model's layers swapped for L-convs, as a table and as a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import BAD_INPUT, shown
from relaxify_cli.options import Exclude, Factory, Include, Json
from relaxify_cli.reporting import console, say_json

if TYPE_CHECKING:
    from relaxify.lconv import Swap

EXAMPLE = "relaxify lconv my.models:make_cnn --shape 1,3,32,32 --output lconv.safetensors"


def lconv(
    model: Factory,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="The converted model's state dict: .safetensors or .pt."),
    ] = None,
    mode: Annotated[
        Literal["exact", "low_rank", "grid"],
        typer.Option(help="The same function, or fresh learnable generators of low rank or on a stencil."),
    ] = "exact",
    include: Include = None,
    exclude: Exclude = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="1,3,32,32", help="Shape of an input, by which image sizes are known; one for each argument."),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of low-rank generators.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Swap convolutions, linear layers and graph convolutions for L-convs, and show which and why not."""
    import torch

    from relaxify.lconv import check_output, lconvify, save_lconvs, swaps
    from relaxify_cli.loading import build_model

    if output is not None:
        check_output(output, force=force)
    inputs = None if not shape else [torch.randn(_sizes(text)) for text in shape]
    original = build_model(model)
    settings: dict[str, Any] = {"mode": mode, "include": include or (), "exclude": exclude or (), "rank": rank}
    # the table and the model are made with the same random numbers
    with torch.random.fork_rng():
        entries = swaps(original, example_inputs=inputs, **settings)
    swapped = [entry for entry in entries if entry.layer is not None]
    if swapped and output is not None:
        converted = lconvify(original, example_inputs=inputs, **settings)
        save_lconvs(converted, output, swapped, {**settings, "shapes": shape or []}, force=force)
    if as_json:
        say_json({"layers": [_as_dict(entry) for entry in entries], "written": str(output) if swapped and output else None})
    else:
        _print(entries, swapped, output, console())
    if not swapped:
        raise typer.Exit(BAD_INPUT)


def _as_dict(entry: Swap) -> dict[str, Any]:
    before, after = entry.parameters
    refusal = entry.refusal
    return {
        "path": entry.path,
        "was": entry.before,
        "generators": entry.generators,
        "parameters": {"before": before, "after": after},
        "refused": None if refusal is None else refusal.why,
        "needs_shape": refusal is not None and refusal.needs_inputs,
    }


def _print(entries: Sequence[Swap], swapped: Sequence[Swap], output: Path | None, out: Console) -> None:
    if swapped:
        out.print(_table(swapped))
    for entry in entries:
        if (refusal := entry.refusal) is not None:
            advice = ": give --shape" if refusal.needs_inputs else ""
            stays = f"{entry.path or 'The model'} ({entry.before}) stays: {refusal.why}{advice}."
            out.print(shown(stays), soft_wrap=True)
    before, after = (sum(entry.parameters[i] for entry in swapped) for i in (0, 1))
    if not swapped:
        out.print("No layer can be swapped.")
        return
    out.print(f"{len(swapped)} of {len(entries)} layers swapped; they had {before:,} parameters and have {after:,}.")
    if output is not None:
        out.print(f"Wrote {shown(str(output))}.", soft_wrap=True)


def _table(entries: Sequence[Swap]) -> Table:
    table = Table(
        Column("layer", overflow="fold"),
        "was",
        Column("generators", overflow="fold"),
        Column("parameters", justify="right"),
        box=None,
    )
    for entry in entries:
        before, after = entry.parameters
        change = f"{before:,}" if before == after else f"{before:,} -> {after:,}"
        table.add_row(shown(entry.path or "(the model)"), shown(entry.before), shown(entry.generators), change)
    return table


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--shape {text!r} is not a shape; write its sizes as in 1,3,32,32.") from error
    if min(sizes) < 1:
        raise ValueError(f"--shape {text!r} has an empty axis; write positive sizes.")
    return sizes
