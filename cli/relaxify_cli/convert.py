"""`relaxify convert`: the checkpoint of a relaxed model becomes one of the plain model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from relaxify_cli.errors import ThresholdError, shown

if TYPE_CHECKING:
    from relaxify.checkpoint import Conversion, StateConversion, TermConversion

SHOWN_NAMES = 8


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Checkpoint of a relaxed model: .safetensors, .pt, an index, or a folder.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="The plain model's checkpoint; without a suffix, a new folder."),
    ],
    mode: Annotated[
        Literal["drop", "fold"], typer.Option(help="Leave the terms out, or first add to the layers what these can express.")
    ] = "drop",
    max_theta: Annotated[
        float | None,
        typer.Option(min=0, metavar="X", help="Exit with 1 if a |theta| is above X; 0 after a finished schedule."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT if it exists.")] = False,
    strip_prefix: Annotated[
        bool, typer.Option("--strip-prefix", help="Remove what wrappers put before every key, such as `module.`.")
    ] = False,
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Keep only what is below this prefix, such as `net.`, and remove it.")
    ] = "",
    key: Annotated[
        str, typer.Option(metavar="NAME", help="Write the state dict under this key alone, such as `ema` or `a.b`.")
    ] = "",
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The most that a file in the folder OUT may have, such as 200MB (5GB)."),
    ] = None,
    relax: Annotated[
        str | None,
        typer.Option(metavar="PKG.MOD:FACTORY", help="The other way: add the terms of the relaxed model this makes."),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(metavar="PKG.MOD:FACTORY", help="Write OUT only if it loads strictly into the model this makes."),
    ] = None,
) -> None:
    """Write the plain model's checkpoint from a relaxed model's, without the model's code."""
    from relaxify.checkpoint import ThetaError
    from relaxify.checkpoint import convert as convert_checkpoint
    from relaxify_cli.loading import build_model, check_loads

    if relax is not None:
        if mode == "fold" or max_theta is not None or prefix or verify is not None:
            raise ValueError("--relax adds terms, and checks them; leave --mode, --max-theta, --prefix and --verify out.")
        _relax(source, output, relax, force=force, strip_prefix=strip_prefix, key=key, max_shard_size=max_shard_size)
        return
    model = None if verify is None else build_model(verify)
    try:
        with _bar() as progress:
            conversion = convert_checkpoint(
                source,
                output,
                mode=mode,
                max_theta=max_theta,
                force=force,
                strip_prefix=strip_prefix,
                prefix=prefix,
                key=key,
                max_shard_size=max_shard_size,
                check=None if model is None else lambda path, done: check_loads(model, path, done),
                progress=progress,
            )
    except ThetaError as error:
        raise ThresholdError(str(error)) from error
    _show(conversion, verified=verify)


def _relax(
    source: Path, output: Path, factory: str, *, force: bool, strip_prefix: bool, key: str, max_shard_size: str | None
) -> None:
    from relaxify.checkpoint import relax
    from relaxify_cli.loading import build_model

    model = build_model(factory)
    with _bar() as progress:
        conversion = relax(
            source,
            output,
            model,
            force=force,
            strip_prefix=strip_prefix,
            key=key,
            max_shard_size=max_shard_size,
            progress=progress,
        )
    _show(conversion, verified=factory)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar with bytes, rate and time left, where errors go to a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("writing and comparing"), *columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(conversion: Conversion, verified: str | None) -> None:
    console = Console()
    for state in conversion.states:
        console.print(_table(state, conversion.mode))
        changed = f"{len(state.added)} added" if state.added else f"{len(state.removed)} removed"
        before, after = (f"{count:,}" for count in (state.parameters_before, state.parameters_after))
        counts = f"{before} became {after}" if state.added else f"{after} of {before}"
        rest = "" if state.added else " remain"
        console.print(f"{len(state.kept)} keys kept, {changed}; {counts} parameters (with buffers){rest}.")
    if conversion.left_out:
        console.print(f"Left out: {shown(_names(conversion.left_out))}.", soft_wrap=True)
    if verified is not None:
        console.print(f"Loads with strict=True into {shown(verified)}.")
    console.print(f"Wrote {shown(str(conversion.target))}.", soft_wrap=True)


def _names(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = [f"and {len(names) - SHOWN_NAMES} more"] if len(names) > SHOWN_NAMES else []
    return ", ".join([*names[:SHOWN_NAMES], *more])


def _table(state: StateConversion, mode: str) -> Table:
    table = Table("term", "theta", "|theta W|", "", title=shown(state.name) or None)
    for term in state.terms:
        table.add_row(shown(term.path), f"{term.theta:.4g}", f"{term.norm:.4g}", shown(_outcome(term, mode)))
    return table


def _outcome(term: TermConversion, mode: str) -> str:
    if term.note is not None:
        return term.note
    if mode != "fold":
        return "dropped" if mode == "drop" else "added"
    return "nothing to fold" if term.folded is None else f"{term.folded:.1%} folded"
