"""A system's section on the page: its table, what is to be known beside it, and a table of its variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.evidence.comparing import Comparison
from benchmarks.evidence.findings import Finding, Findings
from benchmarks.evidence.runs import Runs
from benchmarks.evidence.verdicts import verdict
from benchmarks.evidence.ways import TUNED, WAYS

HEAD = (
    *("way", "rate", "steps", "seeds", "{column}", "minus tuned plain", "minus plain of equal compute"),
    *("largest share", "verdict"),
)


def section(each: Findings) -> str:
    """A system's table, and what is to be known beside it."""
    runs, system, ratio = each.runs, each.runs.system, each.runs.step_ratio
    notes = [
        f"A relaxed step took {ratio['relaxed']:.2f} of a plain one's {ratio['plain, ms']:.1f} ms.",
        f"Rates were chosen among {_rates(runs)}, on {system.sweep} seeds and data that are not tested.{_in_sweep(each)}",
        *_also(each),
        f"{each.cpu_hours:.2f} CPU-hours of {_machine(runs.machine)}.",
        *_diagnosis(runs.diagnosis),
        *([f"Not run here: {'; '.join(each.missing)}."] if each.missing else []),
    ]
    table = _table(system.column, (_row(each, found) for found in each.ways))
    return f"## {system.title}\n\n{system.what} {_best(each)}\n\n{table}\n\n{chr(10).join(notes)}\n"


def variants(varied: Sequence[Findings]) -> str:
    """One table of all variants of a system."""
    first = varied[0].runs
    rows = [[each.runs.system.setting, *_row(each, found)] for each in varied for found in each.ways]
    hours = sum(each.cpu_hours for each in varied)
    ratios, shares = (_each(varied, said) for said in (_ratio, lambda runs: _shares(runs.diagnosis)))
    notes = [
        f"A relaxed step took {ratios} of a plain one.",
        f"Rates were chosen among {_each(varied, _rates)}, on {first.system.sweep} seeds and data that are not tested.",
        f"{hours:.2f} CPU-hours of {_machine(first.machine)}.",
        f"Run in these ways alone: {'; '.join(dict.fromkeys(found.way for each in varied for found in each.ways))}.",
        f"The equivariant share of the gradient, by `relaxify.diagnose` of fresh networks: {shares}.",
    ]
    table = _table(first.system.column, rows, "setting")
    return (
        f"### {first.system.title}: the same in other settings\n\n{_best(varied[0])}\n\n{table}\n\n{chr(10).join(notes)}\n"
    )


def _each(varied: Sequence[Findings], said: Callable[[Runs], str]) -> str:
    """What is said of each variant; once, if it is the same of all."""
    found = {each.runs.system.setting: said(each.runs) for each in varied}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{text} ({setting})" for setting, text in found.items())


def _ratio(runs: Runs) -> str:
    return f"{runs.step_ratio['relaxed']:.2f}"


def _best(each: Findings) -> str:
    return "Higher is better." if each.runs.system.higher_is_better else "Lower is better."


def _rates(runs: Runs) -> str:
    """All that were tried of any way whose sweep is complete."""
    sweeps = [runs.sweep(way) for way, how in WAYS.items() if how.is_swept]
    tried = {rate for sweep in sweeps if sweep.best is not None for rate in sweep.rates}
    return ", ".join(f"{rate:g}" for rate in sorted(tried))


def _in_sweep(each: Findings) -> str:
    """What made the rate of tuned plain training the best, which few seeds may say by chance."""
    found = next((found for found in each.ways if found.way == TUNED), None)
    mean = None if found is None else each.runs.mean_of_sweep(TUNED, found.rate)
    return "" if found is None or mean is None else f" Tuned plain training had {mean:{each.runs.system.form}} on these."


def _also(each: Findings) -> list[str]:
    """What else was measured of each way, beside tuned plain training; no verdict rests on it."""
    lines = []
    for name in each.runs.system.also:
        said = [_with_difference(found, *found.also[name]) for found in each.ways if name in found.also]
        lines += (
            [f"Mean absolute error of the {name} (difference to tuned plain training): {'; '.join(said)}."] if said else []
        )
    return lines


def _with_difference(found: Finding, mean: float, beside: Comparison | None) -> str:
    return f"{found.way} {mean:.1f}" + ("" if beside is None else f" ({beside:.1f})")


def _diagnosis(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `diagnose` said of the networks before they were trained."""
    if not found:
        return []
    advice = Counter(each["advice"] for each in found)
    said = "; ".join(f'{count} of {len(found)}: "{each}"' for each, count in advice.items())
    head = f"`relaxify.diagnose` of {len(found)} fresh networks: the equivariant share of the gradient by a term is "
    return [f"{head}{_shares(found)} (chance {found[0]['chance']:.2f}). {said}"]


def _shares(found: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(
        "no gradient" if each["equivariant"] is None else f"{each['equivariant']:.2f} ± {each['error'] or 0:.2f}"
        for each in found
    )


def _machine(of: Mapping[str, Any]) -> str:
    return f"a shared {of['device']} machine ({of['threads']} thread, torch {of['torch']})"


def _table(column: str, rows: Iterable[Sequence[str]], *first: str) -> str:
    head = [*first, *(cell.format(column=column) for cell in HEAD)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _row(each: Findings, found: Finding) -> list[str]:
    form = each.runs.system.form
    relaxed = not WAYS[found.way].is_plain
    return [
        found.way,
        f"{found.rate:g}" + (" (edge)" if found.is_at_edge else ""),
        f"{found.steps:,}",
        f"{found.seeds}",
        f"{found.mean:{form}}",
        "" if found.tuned is None else f"{found.tuned:{form}}",
        "" if found.compute is None else f"{found.compute:{form}}",
        f"{found.share:.2f}" if relaxed else "",
        verdict(found) if relaxed else "",
    ]
