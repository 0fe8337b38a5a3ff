"""`relaxify lconv`: a model's layers swapped for L-convs, as a table and as a checkpoint."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from relaxify_cli.errors import BAD_INPUT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from relaxify.lconv import Swap

FORMAT = "relaxify-lconv/1"


class Mode(enum.StrEnum):
    """Which generators the L-convs get."""

    exact = "exact"
    low_rank = "low_rank"
    grid = "grid"


def lconv(
    model: Annotated[
        str, typer.Argument(metavar="PKG.MOD:FACTORY", help="What makes the model; or path/to/file.py:factory.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="The converted model's state dict: .safetensors or .pt."),
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="The same function, or fresh learnable generators of low rank or on a stencil.")
    ] = Mode.exact,
    include: Annotated[list[str] | None, typer.Option(help="Only layers at paths of this pattern; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No layer at paths of this pattern; may be repeated.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="1,3,32,32", help="Shape of an input, by which image sizes are known; one for each argument."),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of low-rank generators.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT if it exists.")] = False,
) -> None:
    """Swap convolutions, linear layers and graph convolutions for L-convs, and show which and why not."""
    import torch

    from relaxify.lconv import lconvify, swaps
    from relaxify_cli.loading import build_model

    if output is not None:
        _check_output(output, force)
    inputs = None if not shape else [torch.randn(_sizes(text)) for text in shape]
    original = build_model(model)
    settings: dict[str, Any] = {"mode": mode.value, "include": include or (), "exclude": exclude or (), "rank": rank}
    # the table and the model are made with the same random numbers
    with torch.random.fork_rng():
        entries = swaps(original, example_inputs=inputs, **settings)
    console = Console()
    swapped = [entry for entry in entries if entry.layer is not None]
    if swapped:
        console.print(_table(swapped))
    for entry in entries:
        if entry.reason is not None:
            reason = entry.reason.replace("pass example_inputs", "give --shape")
            console.print(escape(f"{entry.path or 'The model'} ({entry.before}) stays: {reason}."), soft_wrap=True)
    before, after = (sum(entry.parameters[i] for entry in swapped) for i in (0, 1))
    if not swapped:
        console.print("No layer can be swapped.")
        raise typer.Exit(BAD_INPUT)
    console.print(f"{len(swapped)} of {len(entries)} layers swapped; they had {before:,} parameters and have {after:,}.")
    if output is not None:
        converted = lconvify(original, example_inputs=inputs, **settings)
        _write(converted, output, {**settings, "shapes": shape or []}, swapped, force)
        console.print(f"Wrote {escape(str(output))}.", soft_wrap=True)


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
        table.add_row(escape(entry.path or "(the model)"), escape(entry.before), escape(entry.generators), change)
    return table


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--shape {text!r} is no shape; write its sizes as in 1,3,32,32.") from error
    if min(sizes) < 1:
        raise ValueError(f"--shape {text!r} has an empty axis; write positive sizes.")
    return sizes


def _check_output(output: Path, force: bool) -> None:
    from relaxify.checkpoint.output import check_free

    if output.suffix not in (".safetensors", ".pt"):
        raise ValueError(f"{output} has no known ending; name a .safetensors or a .pt file.")
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: its folder does not exist; create it first.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; give the name of a file in it.")
    check_free(output, force=force)


def _write(model: nn.Module, output: Path, settings: dict[str, Any], swapped: Sequence[Swap], force: bool) -> None:
    """The state dict, with what was swapped beside it: `lconvify` with the same settings makes the model to load it into."""
    import safetensors.torch
    import torch

    from relaxify.checkpoint.output import replacing

    record = {"format": FORMAT, **settings, "layers": {entry.path: [entry.before, entry.generators] for entry in swapped}}
    state = _own_storage(model.state_dict())
    with replacing(output, force=force) as (file, _):
        if output.suffix == ".pt":
            torch.save({"state_dict": state, "lconv": record}, file)
        else:
            file.write(safetensors.torch.save(state, metadata={"lconv": json.dumps(record)}))


def _own_storage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights each on their own: safetensors takes no shared storage."""
    return {key: value.detach().clone().contiguous() for key, value in state.items()}
