"""docs/zoo.md: what is measured of every model of the zoo, and what is reported of the broken ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relaxify.relaxation.terms.folded import FOLDS
from relaxify.relaxation.terms.term import terms_of
from zoo.broken import Broken
from zoo.round_trip import RoundTrip, relax

HEAD = """# The zoo

Models in `tests/zoo/`, taken from their packages or written there from their papers, at small sizes. Each comes with the
equivariant linear operations that a person finds by reading its code. This page is generated, in float64 on one thread, by

    PYTHONPATH=tests .venv/bin/python -m zoo

What is measured of each model:

- **sites**: the operations found by reading; **found**: those that `relaxify` found; **idle**: those it leaves alone because
  they have no effect (they read zeros, say); **missed**: all others; **wrong**: those it relaxes and a reader would not;
- **invariant**: operations from invariants to invariants, as many of those found by reading as the plan lists as such;
- **error**: the largest |f(g x) - g f(x)| over elements g of the group, divided by what a perturbation of x does to f:
  before, with trained terms at theta = 1, and after `project` by `drop`, `fold` and `fit`, the largest of the three;
- **fold**: terms whose layer's own weights can take all of the equivariant part of a random W, plus those of which they take
  a part (the group allows more than the layer's authors do: SO(3) more than the nine maps of GATr, made for E(3));
- **dead**: terms that no gradient reached in three optimiser steps, plus those that one reached once other terms had moved;
- **round trip**: W = 0 changes no output; the terms take three optimiser steps with the penalty; `summary` names the dead
  ones; each projection has the original class and keys and loads strictly into a fresh model that then computes the same;
  `drop` gives the base parameters and outputs to the last bit; a deepcopy computes the same and shares nothing;
- **forces**: the gradient of a sum of squared forces with respect to the terms' weights agrees with a central difference.
"""

COLUMNS = (
    "model", "group", "sites", "found", "idle", "missed", "wrong", "invariant", "error before", "relaxed", "after", "fold",
    "dead", "round trip", "forces", "source",
)  # fmt: skip


def row(trip: RoundTrip) -> tuple[str, ...]:
    """One model's cells."""
    entry, sites, went = trip.entry, len(trip.found), bool(trip.found)
    return (
        entry.name,
        entry.group,
        *counts(trip),
        digit(trip.before),
        digit(trip.relaxed) if went else "",
        digit(max(trip.after.values())) if went else "",
        f"{folds([trip])} / {sites}" if went else "",
        (str(len(trip.dead)) + (f" + {len(trip.late)}" if trip.late else "")) if went else "",
        "no" if trip.faults else "yes" if went else "nothing to relax",
        ("yes" if trip.second == "exact" else "no") if went else "",
        entry.source,
    )


def counts(trip: RoundTrip) -> tuple[str, ...]:
    """The cells that depend on what is found alone: sites, found, idle, missed, wrong, invariant."""
    listed = f"{len(trip.listed)} / {len(trip.entry.invariant)}"
    return (*(str(len(paths)) for paths in _sets(trip)), listed)


def folds(trips: Sequence[RoundTrip]) -> str:
    """How many terms fold whole, and how many in part."""
    rests = [rest for trip in trips for rest in trip.unexpressed.values()]
    part = sum(rest > FOLDS for rest in rests)
    return f"{len(rests) - part} + {part}" if part else str(len(rests))


def _sets(trip: RoundTrip) -> tuple[frozenset[str], ...]:
    return trip.entry.expected, trip.found, trip.idle, trip.missed, trip.wrong


def digit(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}"


def totals(trips: Sequence[RoundTrip]) -> tuple[str, ...]:
    sites = [sum(len(paths) for paths in column) for column in zip(*map(_sets, trips), strict=True)]
    invariant = f"{sum(len(trip.listed) for trip in trips)} / {sum(len(trip.entry.invariant) for trip in trips)}"
    relaxed = [trip for trip in trips if trip.found]
    fold = f"{folds(relaxed)} / {sum(len(trip.found) for trip in relaxed)}"
    dead, late = (sum(len(getattr(trip, name)) for trip in relaxed) for name in ("dead", "late"))
    due = [trip for trip in trips if trip.entry.expected or trip.found]
    whole = f"{sum(not trip.faults for trip in due)} of {len(due)}"
    forces = f"{sum(trip.second == 'exact' for trip in due)} of {len(due)}"
    return (
        f"**{len(trips)} models**", "", *map(str, sites), invariant, "", "", "", fold, f"{dead} + {late}", whole, forces, "",
    )  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "x"]]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def portable(text: str) -> str:
    """Paths of files from the package or the repository on, in one line.

    >>> portable("at /home/me/.venv/lib/python3.11/site-packages/e3nn/o3/_linear.py:5")
    'at e3nn/o3/_linear.py:5'
    """
    return re.sub(r"[^\s(]*/(?:site-packages/|(?=tests/|examples/))", "", " ".join(text.split()))


def remarks(trip: RoundTrip) -> list[str]:
    """What is missed, wrong, unlisted or failed in one model, a line each."""
    by_reason: dict[str, list[str]] = {}
    for path in sorted(trip.missed | trip.idle):
        by_reason.setdefault(trip.rejected.get(path, "the plan does not name it"), []).append(path)
    lines = [f"{'idle' if paths[0] in trip.idle else 'missed'} {_code(paths)}: {why}" for why, paths in by_reason.items()]
    if trip.wrong:
        lines.append(f"wrong {_code(trip.wrong)}")
    if unlisted := trip.entry.invariant - trip.listed:
        lines.append(f"on invariants, and not listed as such: {_code(unlisted)}")
    lines += [f"round trip: {fault}" for fault in trip.faults]
    if trip.second not in (None, "exact"):
        lines.append(f"forces: {trip.second}")
    return [portable(f"- {trip.entry.name}: {line}.") for line in lines]


def _code(paths: Iterable[str]) -> str:
    return ", ".join(f"`{path}`" for path in sorted(paths))


@dataclass(frozen=True)
class Reported:
    """What `relaxify(strict=False)` planned and said of a broken model, and which of its layers it relaxed."""

    case: Broken
    unsound: tuple[tuple[str, str, str], ...]
    """Path, op and reason of each."""
    relaxed: frozenset[str]
    warnings: tuple[str, ...] = ()
    raised: str = ""

    @property
    def verdict(self) -> str:
        right = [(path, op.lower()) == (self.case.where, self.case.op) for path, op, _ in self.unsound]
        if not right:
            return "not reported"
        if not any(right):
            return "wrong"
        return "right" if all(right) else f"right, and {right.count(False)} more"


def reported(case: Broken) -> Reported:
    """Relax what is sound of a broken model."""
    model, x = case.entry.build()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan, raised = relax(case.entry, model, x, strict=False)
    unsound = () if plan is None else tuple((r.path, r.op, r.reason) for r in plan.unsound)
    messages = tuple(str(warning.message) for warning in said)
    return Reported(case, unsound, frozenset(terms_of(model)), messages, raised)


BROKEN_HEAD = """## Broken models

The same architectures with one fault planted in each. `strict=True` refuses a model of which something is reported;
`strict=False` should relax the layers that the fault does not reach, and none that it does.
"""

BROKEN_COLUMNS = ("model", "fault", "planted", "reported", "verdict", "sound, relaxed", "spoilt, relaxed")


def broken_row(report: Reported) -> tuple[str, ...]:
    case = report.case
    path, op, reason = report.unsound[0] if report.unsound else ("", "", "")
    sound = f"{len(report.relaxed & case.entry.expected)} / {len(case.entry.expected)}"
    spoilt = report.relaxed - case.entry.expected
    said = portable(f"`{path}`: {op}: {reason}" if report.unsound else report.raised)
    return (case.sound.name, case.entry.name, f"`{case.where}`: {case.op}", said, report.verdict, sound, str(len(spoilt)))


def page(trips: Sequence[RoundTrip], reports: Sequence[Reported]) -> str:
    """The whole of docs/zoo.md."""
    lines = [line for trip in trips for line in remarks(trip)]
    parts = [HEAD, table(COLUMNS, [*map(row, trips), totals(trips)]), ""]
    if lines:
        parts += ["## What is missed, and what fails", "", *lines, ""]
    return "\n".join([*parts, BROKEN_HEAD, table(BROKEN_COLUMNS, map(broken_row, reports)), ""])
