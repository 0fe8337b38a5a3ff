"""Which error ends the command with which exit code, and how it reads."""

from __future__ import annotations

from pathlib import Path

_OURS = "this looks like a fault of relaxify: --debug shows where."
FINE, THRESHOLD, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class ThresholdError(Exception):
    """A bound or a check that the user asked for was not met: exit code 1, where bad input is 2."""


def exit_code(error: BaseException) -> int:
    """What to exit with: 1 if what the user asked for does not hold, 2 if that could not be checked."""
    return THRESHOLD if isinstance(error, ThresholdError) else BAD_INPUT


def sentence(error: BaseException) -> str:
    """An error on one printable line: files may name things in ways that drive a terminal."""
    return printable(" ".join(_text(error).split()))


def printable(text: str) -> str:
    """The text with what could drive a terminal written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _written_out(c) for c in text)


def shown(text: str) -> str:
    """A name from a file or a model as rich prints it: printable, and no markup."""
    from rich.markup import escape

    return escape(printable(text))


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _text(error: BaseException) -> str:
    if hasattr(error, "format_message"):
        return f"{error.format_message().removesuffix('.')} (--help lists what there is)."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ImportError):
        return f"{error}; install what is missing (`relaxify doctor` says which extra brings what)."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "this needs more memory than there is; close other programs, or use a larger machine."
    if isinstance(error, ValueError | OSError | ThresholdError):
        return _of_the_engine(error) or on_the_command_line(str(error))
    return f"unexpected {type(error).__name__}: {error}; {_OURS}"


def _of_the_engine(error: BaseException) -> str | None:
    """What the engine says in Python's words, in those of the command line; None for what reads the same in both."""
    from relaxify.checkpoint import TargetExistsError
    from relaxify.graph.inputs import InputsError, UnfollowedError
    from relaxify.verdicts.action_errors import ActionError

    if isinstance(error, TargetExistsError):
        return exists(error.target)
    if isinstance(error, ActionError):
        return f"{on_the_command_line(error.why)}; {_REMEDIES[error.remedy.name]}."
    if isinstance(error, InputsError):
        where = f" in {error.precision}" if error.precision else ""
        if isinstance(error, UnfollowedError):
            return f"the model runs, but not while relaxify follows it{where} ({error.why}): {_OURS}"
        return f"the model does not run on the inputs{where} ({error.why}); give the arguments of its forward."
    return None


_FUNCTION = "give --action PKG.MOD:FUNCTION"
_REMEDIES = {
    "FUNCTION": f"{_FUNCTION}, or --irreps NAME=IRREPS for features",
    "SIZES": f"{_FUNCTION}, or inputs with other sizes",
    "PIXELS": "give --action relaxify:MovePixels, or inputs with other sizes",
    "FLOATS": "give floating-point positions",
    "SQUARE": "quarter turns need height = width: give square images",
    "QUARTERS": f"try --group C4 or --group D4, or {_FUNCTION}",
    "ONE": "give the one or the other",
    "GIVEN": "give them with --inputs",
}
"""What to do about inputs of which it cannot be told how they move, by the names of the engine's `Remedy`."""


# what the engine says in Python's words, and the command line's for it
_WORDS = (
    ("pass example_inputs=(...)", "give --inputs"),
    ("pass example_inputs", "give --inputs"),
    ("pass input_action=lambda g, inputs: ...", "give --action PKG.MOD:FUNCTION"),
    ("pass output_action", "give --output-action"),
    ("pass force=True", "give --force"),
    ("input_action", "--action"),
    ("output_action", "--output-action"),
    ("input_irreps", "--irreps"),
    ("example_inputs", "--inputs"),
)


def on_the_command_line(text: str) -> str:
    """The engine's words in those of the command line.

    >>> on_the_command_line("nothing is known of it; pass example_inputs=(...)")
    'nothing is known of it; give --inputs'
    """
    for python, option in _WORDS:
        text = text.replace(python, option)
    return text


def exists(path: Path) -> str:
    """The sentence about an output that is there already."""
    return f"{path} exists; choose another name, or overwrite it with --force."
