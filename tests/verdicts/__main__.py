"""Judge the corpus: PYTHONPATH=tests .venv/bin/python -m verdicts [--json | --table] [DOMAIN ...].

Prints the table of verdicts and what was not right, or all that is measured, as JSON; `--table` writes the rows of these
domains into the table of docs/inspect.md.
"""

from __future__ import annotations

import json
import sys


def main(arguments: list[str]) -> None:
    import torch

    from verdicts.corpus import DOMAINS, entries
    from verdicts.scoring import score
    from verdicts.table import as_data, remarks, rows, table, write

    torch.set_num_threads(1)
    domains = [argument for argument in arguments if not argument.startswith("--")]
    scores = {name: score(entry) for name, entry in entries(domains or DOMAINS).items()}
    if "--json" in arguments:
        print(json.dumps(as_data(scores)))  # noqa: T201
    elif "--table" in arguments:
        write(scores)
    else:
        print("\n".join([table(rows(scores)), "", *remarks(scores)]))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
