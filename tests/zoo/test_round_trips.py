"""Models of the zoo keep every promise from plan to projection, and docs/zoo.md says what is measured of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoo import ENTRIES
from zoo.broken import BROKEN
from zoo.round_trip import round_trip
from zoo.table import BROKEN_COLUMNS, COLUMNS, broken_row, counts, reported

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
# several seconds each; the page has them
SLOW = {
    "Equiformer",
    "MACE, foundation configuration",
    "SE(3)-transformer",
    "SE(3)-transformer, EGNN trunk",
    "SE(3)-transformer, reversible",
    "SEGNN",
    "SEGNN degree 2",
    "VN-Transformer with scalars",
    "ViSNet",
    "ViSNet block, degree 2",
    "VN-transformer with features",
    "e3nn gate_points_2101",
    "e3nn v2103",
    "e3nn v2106",
    "e3nn v2106 with attributes",
}
SLOW_BROKEN = {
    "activation on irreps",
    "batch norm over components",
    "bias on irreps",
    "hard coded axis",
    "layer norm over components",
    "relu on components",
    "swapped axes",
}


def rows(columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Those of the page's table with these columns."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| " + " | ".join(columns) + " |") + 2
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [dict(zip(columns, row, strict=True)) for row in cells]


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in SLOW])
def test_round_trip(name: str) -> None:
    entry, trip = ENTRIES[name], round_trip(ENTRIES[name])
    assert not trip.faults
    assert not trip.wrong
    assert trip.dead | trip.late == set(entry.without_effect) & trip.found
    assert counts(trip) == tuple(row_of(name)[column] for column in COLUMNS[2:8])
    assert trip.before < entry.tolerance
    if not trip.found:
        return
    assert trip.relaxed is not None
    assert trip.relaxed > 1e-3
    assert max(trip.after.values()) < entry.tolerance
    assert trip.second is not None
    assert trip.second == "exact" or trip.second.endswith(", as without terms")


def row_of(name: str) -> dict[str, str]:
    return next(row for row in rows(COLUMNS) if row["model"] == name)


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in SLOW_BROKEN])
def test_fault_is_named_and_what_it_reaches_is_not_relaxed(name: str) -> None:
    case = BROKEN[name]
    report = reported(case)
    assert report.verdict.startswith("right")
    assert report.relaxed == case.entry.expected
    assert any(case.where in message for message in report.warnings)
    on_page = next(row for row in rows(BROKEN_COLUMNS) if row["fault"] == name)
    measured = dict(zip(BROKEN_COLUMNS, broken_row(report), strict=True))
    # the line numbers of other people's code are theirs to change
    assert measured | {"reported": ""} == on_page | {"reported": ""}


def test_page_has_every_model_once_and_adds_up() -> None:
    *models, total = rows(COLUMNS)
    assert [row["model"] for row in models] == list(ENTRIES)
    assert [row["fault"] for row in rows(BROKEN_COLUMNS)] == list(BROKEN)
    for column in COLUMNS[2:7]:
        assert sum(int(row[column]) for row in models) == int(total[column])
    assert total["wrong"] == "0"


@pytest.mark.parametrize("page", ["README.md", "docs/finding-layers.md"])
def test_other_pages_say_as_many(page: str) -> None:
    models = rows(COLUMNS)[:-1]
    text = (Path(__file__).parents[2] / page).read_text()
    said = re.search(r"(\d+) (?:published )?models(?:, (\d+) have such layers: all (\d+))?", text)
    assert said is not None
    assert int(said[1]) == len(models)
    if said[2]:
        having = [int(row["sites"]) for row in models if row["sites"] != "0"]
        assert (int(said[2]), int(said[3])) == (len(having), sum(having))
