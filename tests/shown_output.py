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
        lines = test.source.splitlines(keepends=True)
        # the blocks that this one continues stand before it, at their own lines
        before, block = "".join(lines[: test.start_line]), "\n" * test.start_line + "".join(lines[test.start_line :])
        if not self._resume(before, args):
            _printed(before, test.source_path, args)
        printed = _printed(block, test.source_path, args)
        self.last = (test.source, args, torch.get_rng_state())
        shown = shown_below(test.source_path, test.start_line)
        if shown is not None:
            assert_shown(shown, printed)

    def _resume(self, before: str, args: dict[str, Any]) -> bool:
        """Take over what the blocks before have left, if they were the last to run."""
        if self.last is None or self.last[0].rstrip() != before.rstrip():
            return False
        args.update(self.last[1])
        torch.set_rng_state(self.last[2])
        return True


def _printed(source: str, path: Path, namespace: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)
    return printed.getvalue()


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
