"""The corpus as a table of docs/inspect.md: what is true, what was said, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def page(scores: Mapping[str, Score]) -> str:
    """The table, a line of totals, and what went wrong, model by model."""
    domains = dict.fromkeys(name.partition(":")[0] for name in scores)
    rows = [row(domain, [score for name, score in scores.items() if name.startswith(f"{domain}:")]) for domain in domains]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows, row("**all**", list(scores.values()))]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([BEGIN, table, *filter(None, ["\n".join(remarks(scores))]), END])


def row(domain: str, scores: Sequence[Score]) -> list[str]:
    faulty = [score for score in scores if score.entry.label in FAULTY]
    counts = [sum(score.entry.label == label for score in scores) for label in LABELS]
    wrong = [sum(getattr(score, what) for score in scores) for what in ("false_sound", "false_broken")]
    silent = sum(bool(score.crashed) or score.unspoken for score in scores)
    right = f"{sum(score.named_right for score in faulty)} / {len(faulty)}" if faulty else ""
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


def as_data(scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """What a test asks of the scores."""
    return [
        {
            "name": name,
            "wrong": [f"{name}: {line}" for line in wrong(score)],
            "misnamed": misnamed(score),
            "faulty": score.entry.label in FAULTY,
            "seconds": score.seconds,
        }
        for name, score in scores.items()
    ]


def inserted(text: str, table: str) -> str:
    """A page with the table in the place of its last one, or at its end."""
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if found else "\n"
    return f"{before.rstrip()}\n\n{table}{after}"
