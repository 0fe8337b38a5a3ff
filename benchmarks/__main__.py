"""Time every case, print a table, and save it as JSON and as a picture.

python -m benchmarks [--rounds 11] [--only NAME] [--memory] [--verdicts] [--convert [--gigabytes 5] [--folder DIR]]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks import converting, verdicts
from benchmarks.memory import peak
from benchmarks.models import CASES, Case
from benchmarks.steps import steps
from benchmarks.timing import in_turn, ratio
from relaxify import plan

QUICK = ("plain", "relaxed", "ended", "rank 16", "floor")
SLOW = ("exact", "naive")
KINDS_OF_MEMORY = ("plain", "relaxed", "naive")
RESULTS = Path(__file__).parent / "results"


def measured(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Ratios of whole steps to the plain one. The floor is the plain step and the products together."""
    quick = in_turn(steps(case, device, QUICK), device, rounds=rounds, warm_up=3)
    quick["floor"] = [a + b for a, b in zip(quick["plain"], quick["floor"], strict=True)]
    ratios: dict[str, float | None] = {kind: ratio(quick[kind], quick["plain"]) for kind in QUICK}
    ratios |= dict.fromkeys(SLOW)
    if case.takes_every_row:
        slow = in_turn(steps(case, device, ("plain", *SLOW)), device, rounds=max(1, rounds // 4), warm_up=1)
        ratios |= {kind: ratio(slow[kind], slow["plain"]) for kind in SLOW}
    return {
        "case": case.name,
        "batch": case.batch_on(device),
        "plain, ms": 1e3 * statistics.median(quick["plain"]),
        **ratios,
        "relaxed / floor": ratio(quick["relaxed"], quick["floor"]),
        "naive overhead / ours": None if ratios["naive"] is None else (ratios["naive"] - 1) / (ratios["relaxed"] - 1),
        "bar": case.paper if device.type == "cuda" else case.bar,
        "bar, rank 16": case.bar_rank,
        "CR Table 3": case.paper,
    }


def memory(case: Case, device: torch.device) -> dict[str, float | None]:
    """Peak MiB of plain, relaxed and naive steps, and of the terms' weights, gradients and Adam's two moments."""
    kinds = [kind for kind in KINDS_OF_MEMORY if case.takes_every_row or kind not in SLOW]
    peaks = dict.fromkeys(f"peak MiB, {kind}" for kind in KINDS_OF_MEMORY)
    peaks |= {f"peak MiB, {kind}": peak(lambda k=kind: steps(case, device, (k,))[k], device) for kind in kinds}
    added = sum(site.added_parameters for site in plan(case.make(), case.group, include=case.include).sites)
    terms = 4 * added * torch.get_default_dtype().itemsize / 2**20
    over = (peaks["peak MiB, relaxed"] - terms) / peaks["peak MiB, plain"]
    return {**peaks, "terms, MiB": terms, "(relaxed - terms) / plain": over}


def table(rows: list[dict[str, Any]]) -> str:
    # rows of an earlier run may have columns that this one lacks
    head = list(dict.fromkeys(key for row in rows for key in row))
    cells = [
        [f"{row[key]:.3g}" if isinstance(row.get(key), float) else str(row.get(key) or "") for key in head] for row in rows
    ]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.9 * len(rows) + 1.5), layout="constrained")
    kinds = [kind for kind in ("naive", "exact", "relaxed", "rank 16", "floor") if kind in rows[0]]
    for place, kind in enumerate(kinds):
        at = [index + (place - len(kinds) / 2) * 0.16 for index in range(len(rows))]
        axes.barh(at, [row[kind] or 0 for row in rows], height=0.15, label=kind)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(yticks=range(len(rows)), yticklabels=[row["case"] for row in rows], xlabel="training step / plain step")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description="What relaxing costs.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--verdicts", action="store_true", help="measure what plan and inspect take, and nothing else")
    parser.add_argument("--convert", action="store_true", help="measure what convert takes, and nothing else")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="with --convert: the size of the checkpoint")
    parser.add_argument("--folder", type=Path, help="with --convert: where it is written, thrice its size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.verdicts:
        judge(options.only)
        return
    if options.convert:
        convert(options)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = RESULTS / f"steps-{device.type}.json"
    chosen = [case for case in CASES if options.only.lower() in case.name.lower()]
    for case in chosen:
        row = measured(case, device, options.rounds)
        if options.memory:
            row |= memory(case, device)
        print(table([row]), flush=True)
        save(row, machine(device), target)
    rows = json.loads(target.read_text())["rows"]
    picture(rows, target.with_suffix(".png"))
    print(table(rows))


def judge(only: str) -> None:
    """Measure what verdicts cost, always on the CPU."""
    rows = [verdicts.measured(each, rounds=2) for each in verdicts.MODELS if only.lower() in each.name.lower()]
    print(table(rows))
    verdicts.save(rows, machine(torch.device("cpu")))


def convert(options: argparse.Namespace) -> None:
    """Measure what converting a checkpoint costs, on the disk of a folder."""
    rows = []
    for row in converting.measured(options.folder, int(options.gigabytes * 1e9), min(options.rounds, 3), options.only):
        print(table([row]), flush=True)
        rows.append(row)
    if not options.only:
        converting.save(rows, machine(torch.device("cpu")))


def save(row: dict[str, Any], of: dict[str, Any], target: Path) -> None:
    """Put a case's row in the place of its last one, among those measured on the same machine."""
    target.parent.mkdir(exist_ok=True)
    known = json.loads(target.read_text()) if target.exists() else {"machine": of, "rows": []}
    rows = {known_row["case"]: known_row for known_row in known["rows"] if known["machine"] == of} | {row["case"]: row}
    ordered = [rows[case.name] for case in CASES if case.name in rows]
    target.write_text(json.dumps({"machine": of, "rows": ordered}, indent=2) + "\n")


if __name__ == "__main__":
    main()
