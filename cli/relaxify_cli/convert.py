"""`relaxify convert`: the checkpoint of a relaxed model becomes one of the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from relaxify_cli.errors import ThresholdError, shown
from relaxify_cli.options import Action, Irreps, OutputAction
from relaxify_cli.progress import bar
from relaxify_cli.reporting import console

if TYPE_CHECKING:
    from relaxify.checkpoint import Conversion, StateConversion, TermConversion
    from relaxify_cli.verification import Verifier

SHOWN_NAMES = 8

EXAMPLE = "relaxify convert relaxed.safetensors --output plain.safetensors --verify my.models:make_model"


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Checkpoint of a relaxed model: .safetensors, .pt, an index, or a folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="The plain model's checkpoint; without a suffix, a new folder."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write nothing; say whether OUT is what IN converts to.")
    ] = None,
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
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            "-i",
            metavar="X.safetensors|PKG.MOD:FACTORY",
            help="With --verify: run the model on these, and write OUT only if it commutes with the group of the terms and "
            "gives what the relaxed model gives once projected.",
        ),
    ] = None,
    action: Action = None,
    irreps: Irreps = None,
    output_action: OutputAction = None,
) -> None:
    """Write the plain model's checkpoint from a relaxed model's, without the model's code.

    Exit code 1 if a bound, a check or a verification failed; then nothing is written.
    """
    from relaxify.checkpoint import ThetaError
    from relaxify.checkpoint import convert as convert_checkpoint
    from relaxify_cli.verification import Verifier, check_file

    if (output is None) is (check is None):
        raise ValueError("convert either writes or checks; give one of --output OUT and --check OUT.")
    if relax is not None:
        if output is None or mode == "fold" or max_theta is not None or prefix or verify is not None or inputs is not None:
            raise ValueError("--relax adds terms, and checks them; leave --mode, --max-theta, --prefix and --verify out.")
        _relax(source, output, relax, force=force, strip_prefix=strip_prefix, key=key, max_shard_size=max_shard_size)
        return
    verifier = Verifier.of(verify, inputs, action=action, irreps=irreps, output_action=output_action, prefix=prefix)
    if check is not None:
        options = {"mode": mode, "max_theta": max_theta, "strip_prefix": strip_prefix, "prefix": prefix, "key": key}
        check_file(source, check, options, verifier)
        return
    assert output is not None
    try:
        with bar("writing and comparing") as progress:
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
                check=verifier,
                progress=progress,
            )
    except ThetaError as error:
        raise ThresholdError(str(error)) from error
    _show(conversion, verifier)


def _relax(
    source: Path, output: Path, factory: str, *, force: bool, strip_prefix: bool, key: str, max_shard_size: str | None
) -> None:
    from relaxify.checkpoint import relax
    from relaxify_cli.loading import build_model

    model = build_model(factory)
    with bar("writing and comparing") as progress:
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
    _show(conversion, None, relaxed=factory)


def _show(conversion: Conversion, verifier: Verifier | None, relaxed: str | None = None) -> None:
    out = console()
    for state in conversion.states:
        out.print(_table(state, conversion.mode))
        changed = f"{len(state.added)} added" if state.added else f"{len(state.removed)} removed"
        before, after = (f"{count:,}" for count in (state.parameters_before, state.parameters_after))
        counts = f"{before} became {after}" if state.added else f"{after} of {before}"
        rest = "" if state.added else " remain"
        out.print(f"{len(state.kept)} keys kept, {changed}; {counts} parameters (with buffers){rest}.")
    if conversion.left_out:
        out.print(f"Left out: {shown(_names(conversion.left_out))}.", soft_wrap=True)
    if relaxed is not None:
        out.print(f"Loads with strict=True into {shown(relaxed)}.")
    if verifier is not None:
        verifier.print(out)
    out.print(f"Wrote {shown(str(conversion.target))}.", soft_wrap=True)


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
