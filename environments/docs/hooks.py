"""What tests read of a block of code, such as `python continuation`, is no language that is highlighted."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the language alone on each fence."""
    return re.sub(r"^```(\w+) [\w =-]+$", r"```\1", markdown, flags=re.MULTILINE)
