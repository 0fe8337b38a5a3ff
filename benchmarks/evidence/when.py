"""When to expect a gain: what follows from all systems together, in words that the intervals choose."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.evidence.comparing import Verdict
from benchmarks.evidence.findings import Finding, Findings
from benchmarks.evidence.verdicts import counted, verdict
from benchmarks.evidence.ways import DEFAULT, WAYS


def when(systems: Sequence[Findings]) -> str:
    """What each way came to on all systems together, in words that are chosen by the intervals."""
    lines = []
    for way in WAYS:
        said = [f"{s.runs.system.within_a_sentence}, {verdict(f)}" for s in systems for f in s.relaxed if f.way == way]
        lines += [f"- **{way}**: {'; '.join(said)}."] if said else []
    relaxed = [found for each in systems for found in each.relaxed]
    return "\n".join(["## When to expect a gain\n", _conclusion(relaxed), "", _defaults(relaxed), "", *lines, ""])


def _defaults(relaxed: Sequence[Finding]) -> str:
    """Whether what is shipped is worse than tuned plain training of as many steps anywhere, and which other ways are not."""
    verdicts: dict[str, list[Verdict]] = {}
    for found in relaxed:
        if found.tuned is not None:
            verdicts.setdefault(found.way, []).append(found.tuned.verdict)
    if DEFAULT not in verdicts:
        return "The defaults were not run beside tuned plain training."
    worse = verdicts[DEFAULT].count("worse")
    never = [way for way, found in verdicts.items() if "worse" not in found and len(found) == len(verdicts[DEFAULT])]
    among = f"Run on as many systems, and worse on none: {', '.join(never)}." if never else "No way is worse on none."
    return (
        f"relaxify's defaults are worse than tuned plain training of as many steps on {worse} of {len(verdicts[DEFAULT])} "
        f"systems. {among}"
    )


def _conclusion(relaxed: Sequence[Finding]) -> str:
    if wins := sorted({found.way for found in relaxed if found.verdict == "better"}):
        return f"A gain over both plain ways was shown with {', '.join(wins)}, where the tables say so, and nowhere else."
    if better := sorted({found.way for found in relaxed if found.is_better_over_as_many_steps}):
        return (
            f"Over as many steps, {', '.join(better)} did better than tuned plain training where the tables say so; over as "
            "much compute nothing did. So a gain may be had where steps are what is short, and none is to be expected where "
            "time is."
        )
    count = counted(len(relaxed), "relaxed training")
    return f"No gain was shown in {count}: no reason is seen to expect one from models and data of these kinds and sizes."
