"""Write the table of verdicts into docs/inspect.md: PYTHONPATH=examples:tests .venv/bin/python -m verdicts [--print]."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    import torch

    from verdicts.corpus import ENTRIES
    from verdicts.scoring import score
    from verdicts.table import inserted, page

    torch.set_num_threads(1)
    scores = {name: score(entry) for name, entry in ENTRIES.items()}
    if "--print" in sys.argv:
        print(page(scores))  # noqa: T201
        return
    target = Path(__file__).parents[2] / "docs" / "inspect.md"
    target.write_text(inserted(target.read_text(encoding="utf-8"), page(scores)), encoding="utf-8")


if __name__ == "__main__":
    main()
