"""The README as an index page shows it, where a link to a file of this repository would lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK_TO_A_FILE = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)")


class Readme(MetadataHookInterface):
    """Reads README.md; `base` in its settings is the address at which the repository's files are read, once there is one."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, self.config.get("base", ""))}


def for_index(text: str, base: str = "") -> str:
    """The text with its links to files leading to `base`; without one, with the names of the files alone.

    >>> for_index("See [docs/lconv.md](docs/lconv.md).")
    'See docs/lconv.md.'
    >>> for_index("See [docs/lconv.md](docs/lconv.md).", base="https://example.org/main")
    'See [docs/lconv.md](https://example.org/main/docs/lconv.md).'
    """
    return LINK_TO_A_FILE.sub(rf"[\1]({base.rstrip('/')}/\2)" if base else r"\1", text)
