"""docs/lconv-evidence.md, every figure of it from the files of runs: `python -m benchmarks.lconv_evidence --docs`."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch

from benchmarks.lconv_evidence.arms import ARMS
from benchmarks.lconv_evidence.comparisons import OURS, RANDOM, differences, interval, mean, of, said, values, wins
from benchmarks.lconv_evidence.runs import RESULTS, Run
from benchmarks.lconv_evidence.setting import PROTOCOLS, Protocol
from relaxify_examples.lconv.data import VARIANTS
from relaxify_examples.lconv.turning import rotation

DIGITS, SMALL, GENERATORS, SIDE_BY_SIDE = (
    RESULTS / f"lconv-{name}.jsonl" for name in ("digits", "digits-small", "generators", "vmap")
)
PAGE = RESULTS.parents[1] / "docs" / "lconv-evidence.md"
TEMPLATE = Path(__file__).with_name("page.md.jinja")
WORDS = {
    "pairs": '`Flow(Dense, steps="exp")`, pairs (h, R h) of noise',
    "pairs, scrambled": "the same, pixels scrambled",
    "pairs of digits": "the same, pairs of digits",
    "pairs too far apart": "the same, pairs of noise that are 0.35 apart",
    "labels": "`LConv(Dense)`, labels of rotated digits",
    "labels, random L": "the same, random L",
}
LEAST_SEEDS = 5
"""Fewer are in the tables, and nothing is said to follow from them."""

Runs = Mapping[tuple[Protocol, str], list[Run]]
"""By protocol and variant."""


def write() -> None:
    PAGE.write_text(text(*read()))


def read() -> tuple[list[Run], list[Run], list[Run]]:
    """All runs, what generators learned, and what was timed side by side; none where there is no file."""
    return lines(DIGITS) + lines(SMALL), lines(GENERATORS), lines(SIDE_BY_SIDE)


def lines(path: Path) -> list[Run]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def text(runs: Sequence[Run], generators: Sequence[Run], side_by_side: Sequence[Run]) -> str:
    """The whole page, of whatever was run so far."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    every = (*runs, *generators, *side_by_side)
    return environment.from_string(TEMPLATE.read_text()).render(
        data={name: _of_data(runs, name) for name in dict.fromkeys(run["budget"]["data"] for run in runs)},
        hours=sum(run["seconds"] for run in every) / 3600,
        machines="; ".join(sorted({run["machine"] for run in every})),
        ways=_ways(generators),
        dense=_nearer(generators, "labels", "labels, random L"),
        found=[run["cosine"] for run in generators if run["arm"] in ("pairs", "pairs, scrambled")],
        ceiling=_ceiling(28, rank=5 * 8),
        slower=[run["side by side, ms"] / run["one by one, ms"] for run in side_by_side],
    )


def _of_data(runs: Sequence[Run], data: str) -> dict[str, Any]:
    """What there is to tell of one set of images."""
    here = [run for run in runs if run["budget"]["data"] == data]
    by_setting = {(protocol, variant): of(here, protocol, variant) for protocol in PROTOCOLS for variant in VARIANTS}
    return {
        "answers": [_answer(*setting, found) for setting, found in by_setting.items()],
        "epochs": max(run["budget"]["epochs"] for run in here),
        "tables": {protocol: _table(by_setting, protocol) for protocol in PROTOCOLS},
        "rates": _rates([run for run in here if run["budget"]["rate_to_try"] is not None]),
        "spans": _spans(by_setting),
        "nearer": _nearer(by_setting["fair", "rotated"], OURS, RANDOM),
    }


def plainly(variant: str) -> str:
    return "unmodified" if variant == "default" else variant


def _answer(protocol: Protocol, variant: str, runs: Sequence[Run]) -> dict[str, Any]:
    seeds = len(values(runs, OURS))
    found = differences(runs, ARMS[protocol]) if seeds >= LEAST_SEEDS else {}
    verdict = {"wins": bool(found) and wins(found), "said": said(found)}
    return {"protocol": protocol, "variant": plainly(variant), "seeds": seeds, **verdict}


def _nearer(runs: Sequence[Run], trained: str, random: str) -> dict[str, Any]:
    """Whether training has brought generators nearer to the rotation than random ones are; nothing with few seeds."""
    outcome = differences(runs, [random], "cosine", ours=trained).get(random)
    if outcome is None or outcome.seeds < LEAST_SEEDS:
        return {}
    means = [mean(values(runs, arm, "cosine"), ".4f") for arm in (trained, random)]
    return {"verdict": outcome.verdict, "means": means}


def _table(by_setting: Runs, protocol: Protocol) -> str:
    """A row an arm: its size and cost, and by variant its accuracy; then a row for L-conv's difference to it."""
    here = {variant: by_setting[protocol, variant] for variant in VARIANTS if values(by_setting[protocol, variant], OURS)}
    rows = [["", "parameters", "multiply-adds", "CPU seconds", *map(plainly, here)]]
    for arm in ARMS[protocol]:
        mine = [run for found in here.values() for run in found if run["arm"] == arm]
        if mine:
            seconds = f"{statistics.median(run['seconds'] for run in mine):.1f}"
            cells = [mean([100 * value for value in values(found, arm)], ".1f") for found in here.values()]
            rows.append([arm, f"{mine[0]['parameters']:,}", f"{mine[0]['multiply_adds']:,}", seconds, *cells])
    against = [differences(found, ARMS[protocol]) for found in here.values()]
    for arm in ARMS[protocol]:
        if any(arm in found for found in against):
            cells = [interval(found[arm]) if arm in found else "" for found in against]
            rows.append([f"*L-conv minus {arm}*", "", "", "", *cells])
    return _markdown(rows) if here else "Not run."


def _rates(sweep: Sequence[Run]) -> str:
    rates = sorted({run["learning_rate"] for run in sweep})
    rows = [["accuracy on held-out training images, by rate", *(f"{rate:g}" for rate in rates)]]
    for arm in ARMS["fair"]:
        found = {run["learning_rate"]: run["accuracy"] for run in sweep if run["arm"] == arm}
        rows.append([arm, *(f"{100 * found[rate]:.1f}" for rate in rates if rate in found)])
    return _markdown(rows)


def _spans(by_setting: Runs) -> str:
    rows = [["trained on labels of", "generators", "seeds", "cosine", "chance", "cosine on images"]]
    for ((protocol, variant), here), arm in itertools.product(by_setting.items(), (OURS, RANDOM)):
        cosines, chances, on_images = (values(here, arm, key) for key in ("cosine", "chance", "cosine_on_images"))
        if cosines:
            numbers = [mean(cosines, ".4f"), f"{statistics.fmean(chances):.4f}", mean(on_images, ".4f")]
            rows.append([f"{plainly(variant)} digits, {protocol}", arm, f"{len(cosines)}", *numbers])
    return _markdown(rows)


def _ceiling(side: int, rank: int) -> float:
    """The largest cosine to the rotation that matrices of so small a rank can have (Eckart and Young)."""
    squares = torch.linalg.svdvals(rotation(side)).square()
    return float((squares[:rank].sum() / squares.sum()).sqrt())


def _ways(generators: Sequence[Run]) -> str:
    rows = [["on 8 x 8 pixels", "seeds", "cosine", "cosine on images", "loss", "accuracy", "CPU seconds"]]
    for way, words in WORDS.items():
        mine = [run for run in generators if run["arm"] == way]
        if mine:
            right = mean([100 * run["accuracy"] for run in mine if run["accuracy"] is not None], ".1f")
            loss, seconds = (statistics.median(run[key] for run in mine) for key in ("loss", "seconds"))
            cells = [mean(values(mine, way, key), ".4f") for key in ("cosine", "cosine_on_images")]
            rows.append([words, f"{len(mine)}", *cells, f"{loss:.1e}", right, f"{seconds:.1f}"])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    table = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)
