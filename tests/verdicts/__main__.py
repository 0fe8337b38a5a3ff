"""Judge the corpus: PYTHONPATH=examples:tests .venv/bin/python -m verdicts [--json | --print] [DOMAIN ...].

Writes the table of verdicts into docs/inspect.md, or prints it, or all that is measured, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    import torch

    from verdicts.corpus import DOMAINS, entries
    from verdicts.scoring import score
    from verdicts.table import as_data, inserted, page

    torch.set_num_threads(1)
    domains = [argument for argument in arguments if not argument.startswith("--")]
    scores = {name: score(entry) for name, entry in entries(domains or DOMAINS).items()}
    if "--json" in arguments:
        print(json.dumps(as_data(scores)))  # noqa: T201
    elif "--print" in arguments:
        print(page(scores))  # noqa: T201
    else:
        target = Path(__file__).parents[2] / "docs" / "inspect.md"
        target.write_text(inserted(target.read_text(encoding="utf-8"), page(scores)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
