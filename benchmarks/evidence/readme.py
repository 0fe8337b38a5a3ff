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

BEGIN, END = "<!-- figures: python -m benchmarks.evidence --docs -->\n", "<!-- end of figures -->\n"
SHORT = "<!-- in short: python -m benchmarks.evidence --docs -->\n"
ARMS_OF_CLOUDS = ("plain", "until=0.5", "as printed")
FIRST_FRESH_SEED = 20
EARLIER = Path(__file__).parent.parent / "results"


def with_figures(readme: str, systems: Sequence[Findings]) -> str:
    """The same text with the figures as the results have them."""
    demo = _demo(json.loads((EARLIER / "nbody.json").read_text()))
    readme = _between(SHORT, readme, in_short(systems))
    return _between(BEGIN, readme, f"{demo}\n{_clouds()}\n{headline(systems)}\n")


def _between(begin: str, text: str, new: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}{new}{END}{after}"


def in_short(systems: Sequence[Findings]) -> str:
    """Whether relaxing helps, in a reader's first minute."""
    judged = [(each.runs.system, found) for each in systems for found in each.relaxed if found.verdict is not None]
    wins = [f"{found.way} on {system.title.lower()}" for system, found in judged if found.verdict == "better"]
    found = (
        f"Better than plain training that is tuned, and than plain training of equal compute: {'; '.join(wins)}."
        if wins
        else f"Not in what was measured here: none of {len(judged)} relaxed trainings is shown to be better than plain\n"
        "training that is tuned and has as much compute. The paper's gains are at sizes that were not run."
    )
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


def _clouds() -> str:
    """The recipe on seeds that served to choose nothing; the one as printed was run on few, and loses."""
    runs = [json.loads(line) for line in (EARLIER / "clouds.jsonl").read_text().splitlines()]
    plain, recipe, printed = ({r["seed"]: 100 * r["accuracy"] for r in runs if r["arm"] == arm} for arm in ARMS_OF_CLOUDS)
    fresh = {seed: value for seed, value in recipe.items() if seed >= FIRST_FRESH_SEED}
    found, lost = (compared(way, plain, 1, higher_is_better=True) for way in (fresh, printed))
    assert found is not None
    assert lost is not None
    return (
        f"On point clouds in one pose, {found:.1f} points of accuracy with the recipe above ({found.pairs} pairs), and\n"
        f"{lost:.1f} with the one as printed ({lost.pairs} pairs), beside plain training at the same rate "
        "([docs/method.md](docs/method.md#does-it)).\n"
    )
