"""The `relaxify` command: finds the subcommand and turns every error into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from relaxify_cli.errors import FINE, INTERRUPTED, exit_code, on_the_command_line, printable, sentence
from relaxify_cli.reporting import reporting

# the function `convert` of relaxify_cli.convert is `relaxify convert`, and EXAMPLE there a line that one could type; a dash
# of a command's name is an underscore there
COMMANDS = (
    "plan",
    "diagnose",
    "inspect",
    "history",
    "convert",
    "show",
    "diff",
    "lconv",
    "symmetry",
    "mace-train",
    "demo",
    "doctor",
)

HELP = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """Subcommands that are imported only when asked for, so that none waits for, or breaks with, another's libraries."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"relaxify_cli.{name}")
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        # a module may say how its command takes arguments, such as those of another program
        context = {**HELP, **getattr(module, "CONTEXT", {})}
        example = f"Example: {module.EXAMPLE}"
        single.command(cmd_name, epilog=example, context_settings=context)(reporting(getattr(module, name)))
        return typer.main.get_command(single)


app = typer.Typer(cls=Commands, context_settings=HELP, pretty_exceptions_enable=False)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"relaxify {importlib.metadata.version('relaxify')}")
        raise typer.Exit


@app.callback()
def relaxify(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train equivariant models with their constraint relaxed, then project them back.

    Exit codes: 0 fine, 1 a threshold or check failed, 2 bad input or unsupported.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; `--debug` may stand anywhere and lets errors through."""
    debug = "--debug" in arguments
    try:
        _check_written(arguments)
        with _warnings_in_a_sentence():
            result = typer.main.get_command(app).main(
                [argument for argument in arguments if argument != "--debug"] or ["--help"],
                prog_name="relaxify",
                standalone_mode=False,
            )
        code = result if isinstance(result, int) else FINE
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(f"relaxify: {sentence(error)}\n")
        return exit_code(error)
    if code == INTERRUPTED:
        sys.stderr.write("relaxify: interrupted.\n")
    return code


def _check_written(arguments: Sequence[str]) -> None:
    """ValueError for what a path would be made of that nobody has written: "" is the working folder to Python.

    What is said to another program, such as MACE's, is that program's.
    """
    if arguments[:1] == ["mace-train"]:
        return
    if "" in arguments:
        raise ValueError(
            "an argument is empty, as a variable of the shell that is not set; give it, or leave its option out."
        )
    if "-" in arguments:
        raise ValueError("- stands for no stream here; give the path of a file, ./- for one of that name.")


@contextlib.contextmanager
def _warnings_in_a_sentence() -> Iterator[None]:
    """What relaxify warns of, each once, without the line of code; warnings of other libraries are theirs."""
    said: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def told(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
            if category.__module__.partition(".")[0] != "relaxify":
                show(message, category, filename, *more, **named)
            elif str(message) not in said:
                said.add(str(message))
                sys.stderr.write(f"relaxify: {printable(on_the_command_line(str(message))).rstrip('.')}.\n")

        warnings.showwarning = told
        yield


class Output:
    """Standard output that goes on in silence when whoever reads it has seen enough, as `| head` has."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._silenced():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _silenced(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # what is left in its buffer has to go somewhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def main() -> None:
    """The console script."""
    # without a standard output, Python has none either
    sys.stdout = Output(sys.stdout or Path(os.devnull).open("w"))  # noqa: SIM115
    sys.exit(run(sys.argv[1:]))
