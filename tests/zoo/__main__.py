"""Write docs/zoo.md: PYTHONPATH=tests .venv/bin/python -m zoo."""

from __future__ import annotations

from pathlib import Path


def main() -> None:
    import torch

    from zoo import ENTRIES
    from zoo.broken import BROKEN
    from zoo.round_trip import round_trip
    from zoo.table import page, reported

    torch.set_num_threads(1)
    trips = [round_trip(entry) for entry in ENTRIES.values()]
    reports = [reported(case) for case in BROKEN.values()]
    target = Path(__file__).parents[2] / "docs" / "zoo.md"
    target.write_text(page(trips, reports), encoding="utf-8")


if __name__ == "__main__":
    main()
