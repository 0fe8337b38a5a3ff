"""Verdicts and counts in words."""

from __future__ import annotations

from benchmarks.evidence.findings import Finding

NOTHING = "no difference"


def verdict(found: Finding) -> str:
    if found.verdict is None:
        return "not judged: a plain way or pairs are missing"
    if found.verdict != NOTHING:
        return f"**{found.verdict}**"
    # to be better than an untuned rate is nothing to be told
    told = {name: each for name, each in found.apart.items() if (name, each) != ("untuned", "better")}
    shown = [f"{each} than {name}" for name, each in told.items() if each != NOTHING]
    return " and ".join(shown) or NOTHING


def counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
