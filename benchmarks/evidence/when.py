"""When to expect a gain: what follows from all systems together, in words that the intervals choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.evidence.comparing import Verdict
from benchmarks.evidence.findings import Finding, Findings
from benchmarks.evidence.verdicts import NOTHING, counted, verdict
from benchmarks.evidence.ways import AS_PRINTED, DEFAULT, WAYS


def when(systems: Sequence[Findings]) -> str:
    """What each way came to on all systems together, in words that are chosen by the intervals."""
    relaxed = [found for each in systems for found in each.relaxed if not found.keeps_terms]
    parts = [_conclusion(relaxed), _of_kept(systems), _defaults(relaxed), _foretold(systems), "\n".join(_ways(systems))]
    return "\n\n".join(["## When to expect a gain", *filter(None, parts)]) + "\n"


def _of_kept(systems: Sequence[Findings]) -> str:
    """Where a model that is no longer equivariant did better than one that is."""
    wins = [each.runs.system.within_a_sentence for each in systems for found in each.kept if found.verdict == "better"]
    if not wins:
        return ""
    return (
        f"On {', '.join(wins)} a model that keeps its terms did better than both, with more parameters and without the "
        "symmetry (CR sec. 4.4)."
    )


def _ways(systems: Sequence[Findings]) -> Iterator[str]:
    """A line each way: on which systems it came to what, and on how many to nothing."""
    for way in WAYS:
        places: dict[str, list[str]] = {}
        for each in systems:
            for found in each.relaxed:
                if found.way == way:
                    places.setdefault(verdict(found), []).append(each.runs.system.within_a_sentence)
        if places:
            none = places.pop(NOTHING, [])
            among = counted(len(none) + sum(map(len, places.values())), "system")
            said = [f"{what} on {', '.join(where)}" for what, where in places.items()]
            yield f"- **{way}**: {'; '.join([f'{NOTHING} on {len(none)} of {among}', *said])}."


def _foretold(systems: Sequence[Findings]) -> str:
    """What `diagnose` said of fresh networks, beside what the defaults and the printed schedule then came to."""
    rows = []
    for each in systems:
        ways = {found.way: found.tuned for found in each.relaxed}
        if each.runs.diagnosis and (default := ways.get(DEFAULT)) is not None:
            printed, form = ways.get(AS_PRINTED), each.runs.system.form
            rows.append(
                (
                    each.runs.system.within_a_sentence,
                    "; ".join(dict.fromkeys(_brief(found["advice"]) for found in each.runs.diagnosis)),
                    f"{default:{form}}",
                    "" if printed is None else f"{printed:{form}}",
                )
            )
    if not rows:
        return ""
    head = ("system", "what `diagnose` said", "defaults minus tuned plain", "as printed minus tuned plain")
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])
    return f"What `relaxify.diagnose` said before the training, and what came of it:\n\n{table}"


def _brief(advice: str) -> str:
    """The finding of an advice, without what to do."""
    return advice.rstrip(".").split(":")[0].split(", and")[0].split(", so")[0]


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
