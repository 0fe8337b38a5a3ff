"""What a page shows as output is what its code prints; and a block that continues others does not run them again."""

from __future__ import annotations

import contextlib
import io
import re
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import torch
from pytest_markdown_docs._runners import DefaultRunner, register_runner
from pytest_markdown_docs.definitions import FenceTestDefinition

ROUNDING = re.compile(r"\b\d(\.\d+)?e-(0[7-9]|1\d)\b|\b0(\.0)?e\+00\b")
"""How large a rounding error is depends on the machine; that it is one does not."""


@register_runner(default=True)
class ShownOutput(DefaultRunner):
    """Runs a block, and compares what it prints with the `text` block that follows it on the page, if there is one."""

    def __init__(self) -> None:
        self.last: tuple[str, dict[str, Any], torch.Tensor] | None = None

    def runtest(self, test: FenceTestDefinition, args: dict[str, Any], *, asyncio_runner: Any = None) -> None:
        rest = self._resume(test, args)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(rest, test.source_path, "exec", dont_inherit=True), args)
        self.last = (test.source, args, torch.get_rng_state())
        shown = shown_below(test.source_path, test.start_line)
        if shown is not None:
            assert_shown(shown, printed.getvalue())

    def _resume(self, test: FenceTestDefinition, args: dict[str, Any]) -> str:
        """The block alone, with what the ones before it have left; or all of them, if they were not the last to run."""
        if self.last is None or not test.source.startswith(self.last[0]):
            return test.source
        before, left, random_state = self.last
        args.update(left)
        torch.set_rng_state(random_state)
        return "\n" * before.count("\n") + test.source[len(before) :]


def shown_below(page: Path, line: int) -> str | None:
    """What stands in the `text` block that follows the block which begins at this line of a page, if one does."""
    if page.suffix != ".md":
        return None
    after_code = "\n".join(page.read_text().splitlines()[line:]).partition("```\n")[2].lstrip()
    return after_code.removeprefix("```text\n").partition("```")[0] if after_code.startswith("```text\n") else None


def assert_shown(shown: str, printed: str) -> None:
    """Equal but for white space and the size of rounding errors, with `...` for whatever a reader need not see."""
    want, got = (ROUNDING.sub("1e-16", text) for text in (shown, printed))
    matches = OutputChecker().check_output(want, got, ELLIPSIS | NORMALIZE_WHITESPACE)
    assert matches, f"shown is\n{shown}\nand printed\n{printed}"
