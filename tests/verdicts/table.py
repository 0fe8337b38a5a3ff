"""The corpus as a table of docs/inspect.md: what is true, and what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verdicts.entry import BROKEN, FAULTY, LATENT, NEVER, SOUND, UNSEEN
from verdicts.scoring import Score

LABELS = (SOUND, BROKEN, LATENT, NEVER, UNSEEN)
COLUMNS = (
    "domain",
    *LABELS,
    "called sound, and is not",
    "called broken, and is sound",
    "no verdict",
    "first operation right",
)
BEGIN, END = "<!-- verdicts: generated -->", "<!-- verdicts: end -->"
PAGE = Path(__file__).parents[2] / "docs" / "inspect.md"


def table(domains: Sequence[Sequence[str]]) -> str:
    """A row for each domain, and one of totals."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *domains, total(domains)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def total(domains: Sequence[Sequence[str]]) -> list[str]:
    """The sums of the columns; of "right / all", both.

    >>> total([["sets", "3", "1 / 2"], ["images", "4", "2 / 2"]])
    ['**all**', '7', '3 / 4']
    """
    numbers = [[[int(number) for number in cell.split(" / ")] for cell in row[1:]] for row in domains]
    sums = [[sum(parts) for parts in zip(*cells, strict=True)] for cells in zip(*numbers, strict=True)]
    return ["**all**", *(" / ".join(map(str, cell)) for cell in sums)]


def rows(scores: Mapping[str, Score]) -> list[list[str]]:
    domains = dict.fromkeys(name.partition(":")[0] for name in scores)
    return [row(domain, [score for name, score in scores.items() if name.startswith(f"{domain}:")]) for domain in domains]


def documented() -> dict[str, list[str]]:
    """The rows that docs/inspect.md has, by their domains, totals last."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.strip().splitlines()[2:]]
    return {line[0]: line for line in lines}


def row(domain: str, scores: Sequence[Score]) -> list[str]:
    faulty = [score for score in scores if score.entry.label in FAULTY]
    counts = [sum(score.entry.label == label for score in scores) for label in LABELS]
    wrong = [sum(getattr(score, what) for score in scores) for what in ("false_sound", "false_broken")]
    silent = sum(bool(score.crashed) or score.unspoken for score in scores)
    right = f"{sum(score.named_right for score in faulty)} / {len(faulty)}"
    return [domain, *map(str, (*counts, *wrong, silent)), right]


def remarks(scores: Mapping[str, Score]) -> list[str]:
    """What was not right of each model, a line each."""
    said = {name: [*wrong(score), *filter(None, [misnamed(score)])] for name, score in scores.items()}
    return [f"- {name} ({scores[name].entry.label}): {'; '.join(lines)}." for name, lines in said.items() if lines]


def wrong(score: Score) -> list[str]:
    """What was said of a model and is not so, or was not said."""
    verdicts = ", ".join(f"{verb} {verdict}" for verb, verdict in score.verdicts.items())
    return [
        *([f"false sound ({verdicts})"] if score.false_sound else []),
        *([f"false broken ({verdicts})"] if score.false_broken else []),
        *([f"no verdict ({score.crashed})"] if score.crashed and not score.false_broken else []),
        *(["not said to break once trained" if score.entry.label == LATENT else "judged unseen"] if score.unspoken else []),
        *(["relaxed although it will break once trained"] if score.relaxed else []),
        *(["model or inputs changed"] if score.changed else []),
    ]


def misnamed(score: Score) -> str:
    """What was named in the place of the operation that breaks first."""
    if score.entry.label not in FAULTY or score.named_right:
        return ""
    return f"names {':'.join(score.named) if score.named else 'nothing'}, not {score.entry.fault}"


def as_data(scores: Mapping[str, Score]) -> dict[str, Any]:
    """What a test asks of the scores."""
    models = [
        {
            "name": name,
            "wrong": [f"{name}: {line}" for line in wrong(score)],
            "misnamed": misnamed(score),
            "faulty": score.entry.label in FAULTY,
            "seconds": score.seconds,
        }
        for name, score in scores.items()
    ]
    return {"models": models, "rows": rows(scores)}


def write(scores: Mapping[str, Score]) -> None:
    """Put the rows of the domains that were scored into the table of docs/inspect.md."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    found = documented() | {row[0]: row for row in rows(scores)}
    lines = [found[domain] for domain in sorted(found) if not domain.startswith("*")]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
