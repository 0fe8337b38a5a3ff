"""The figures of README.md: what stands between two marks there is written from results, and nothing else of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.comparing import compared
from benchmarks.evidence.findings import Findings
from benchmarks.evidence.page import headline
from benchmarks.evidence.ways import DEFAULT

BEGIN, END = "<!-- figures: python -m benchmarks.evidence --docs -->\n", "<!-- end of figures -->\n"
SHORT = "<!-- in short: python -m benchmarks.evidence --docs -->\n"
EARLIER = Path(__file__).parent.parent / "results"


def with_figures(readme: str, systems: Sequence[Findings]) -> str:
    """The same text with the figures as the results have them."""
    demo = _demo(json.loads((EARLIER / "nbody.json").read_text()))
    readme = _between(SHORT, readme, in_short(systems))
    return _between(BEGIN, readme, f"{demo}\n\n{_defaults(systems)}\n{headline(systems)}\n")


def _between(begin: str, text: str, new: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}{new}{END}{after}"


def in_short(systems: Sequence[Findings]) -> str:
    """Whether relaxing helps, in a reader's first minute."""
    judged = [(each.runs.system, found) for each in systems for found in each.judged]
    wins = [f"{found.way} on {system.within_a_sentence}" for system, found in judged if found.verdict == "better"]
    found = (
        f"Better than plain training that is tuned, and than plain training of equal compute: {'; '.join(wins)}."
        if wins
        else f"Not in what was measured here: none of {len(judged)} relaxed trainings is shown to be better than plain\n"
        "training that is tuned and has as much compute. The paper's gains are at sizes that were not run."
    )
    if kept := [each.runs.system.within_a_sentence for each in systems for found in each.kept if found.verdict == "better"]:
        found += f"\nNetworks that keep their terms, and so are not equivariant any more, do better on {', '.join(kept)}."
    return f"**Does it help?** {found} [The evidence](docs/evidence.md).\n"


def _demo(found: Mapping[str, Any]) -> str:
    settings, seeds = found["settings"], found["seeds"]
    plain, relaxed = ([seed[f"test_mse_{kind}"] for seed in seeds] for kind in ("plain", "projected"))
    error = {kind: max(seed[f"equivariance_error_{kind}"] for seed in seeds) for kind in ("plain", "projected", "relaxed")}
    ratio = statistics.median(seed["step_time_ratio"] for seed in seeds)
    pairs = compared(dict(enumerate(relaxed)), dict(enumerate(plain)), 1, higher_is_better=False)
    assert pairs is not None
    verdict = "no gain is claimed" if pairs.verdict == "no difference" else f"the relaxed ones are {pairs.verdict}"
    rows = {
        f"test MSE, mean ± sd of {len(seeds)} paired seeds": (_spread(plain), _spread(relaxed)),
        "parameters": (
            f"{found['parameters_plain']:,}",
            f"{found['parameters_projected']:,} ({found['parameters_relaxed']:,} during training)",
        ),
        "training step time": ("1", f"{ratio:.2f}"),
        "equivariance error, float64": (
            f"{error['plain']:.1e}",
            f"{error['projected']:.1e} ({error['relaxed']:.1e} at theta = 1, terms on)",
        ),
    }
    table = "\n".join(f"| {name} | {of_plain} | {of_relaxed} |" for name, (of_plain, of_relaxed) in rows.items())
    return f"""\
With the defaults and {len(seeds)} seeds ({settings["train_size"]:,} trajectories, {settings["epochs"]} epochs, a SEGNN of \
{settings["num_layers"]} layers and
{settings["width"]} channels, terms in the update nets; `benchmarks/results/nbody.json`):

| | plain | relaxed + projected |
|---|---|---|
{table}

The pairs differ by {pairs:.5f} (95 % interval): {verdict}.
The paper's gains come at 1,000 epochs and 3,000 trajectories."""


def _spread(values: Sequence[float]) -> str:
    return " ± ".join(f"{value:.5f}".removeprefix("0") for value in (statistics.fmean(values), statistics.stdev(values)))


def _defaults(systems: Sequence[Findings]) -> str:
    """What is shipped, and the paper to the letter, beside plain training: a row each system."""
    head = ("minus plain training", "defaults, as many steps", "defaults, equal compute", "as printed, as many steps")
    rows = [head, ("---",) * len(head), *(row for each in systems if (row := _row(each)) is not None)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        "What relaxing changes ([evidence](docs/evidence.md)): means of paired differences to plain training, with 95 %\n"
        f"intervals; every learning rate is tuned:\n\n{table}\n"
    )


def _row(each: Findings) -> tuple[str, ...] | None:
    system, found = each.runs.system, {finding.way: finding for finding in each.relaxed}
    default, printed = found.get(DEFAULT), found.get("as printed")
    if default is None or default.tuned is None or default.compute is None:
        return None
    last = "" if printed is None or printed.tuned is None else f"{printed.tuned:{system.form}}"
    better = "higher" if system.higher_is_better else "lower"
    setting = f" ({system.setting})" if system.setting else ""
    name = f"{system.title}{setting}: {system.column}, {better} is better, {default.seeds} seeds"
    return name, f"{default.tuned:{system.form}}", f"{default.compute:{system.form}}", last
