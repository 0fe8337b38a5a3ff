"""Which error ends the command with which exit code, and how it reads."""

from __future__ import annotations

FINE, THRESHOLD, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class ThresholdError(Exception):
    """A bound or a check that the user asked for was not met: exit code 1, where bad input is 2."""


def exit_code(error: BaseException) -> int:
    """What to exit with: 1 if what the user asked to hold does not, 2 if it could not be looked at."""
    return THRESHOLD if isinstance(error, ThresholdError) else BAD_INPUT


def sentence(error: BaseException) -> str:
    """An error on one printable line: files may name things in ways that drive a terminal."""
    text = " ".join(_text(error).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(error: BaseException) -> str:
    if hasattr(error, "format_message"):
        return f"{error.format_message().removesuffix('.')} (--help lists what there is)."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ImportError):
        return f"{error}; install what is missing (`relaxify doctor` says which extra brings what)."
    if isinstance(error, ValueError | OSError | ThresholdError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; this looks like a fault of relaxify: --debug shows where."
