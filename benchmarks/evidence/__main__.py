"""`python -m benchmarks.evidence [SYSTEM ...] [--seeds N] [--small]` trains what is missing; `--docs` writes the page.

`--modelnet40 FOLDER` adds that data set, of whoever has its files.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.evidence.documents import written
from benchmarks.evidence.findings import all_findings
from benchmarks.evidence.modelnet40 import modelnet40
from benchmarks.evidence.runs import RESULTS, Runs
from benchmarks.evidence.sections import section
from benchmarks.evidence.systems import SYSTEMS, small
from benchmarks.evidence.ways import FEW, WAYS


def main() -> None:
    parser = argparse.ArgumentParser(description="Trainings that tell whether relaxing helps; goes on where it was.")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}; all if none is given")
    parser.add_argument("--seeds", type=int, help="how many are tested, for other than the system's own number")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", help="all if none is given; variants: few")
    parser.add_argument("--small", action="store_true", help="seconds instead of hours, of which nothing is kept")
    parser.add_argument("--docs", action="store_true", help="write docs/evidence.md from what there is, and run nothing")
    parser.add_argument("--modelnet40", type=Path, metavar="FOLDER", help="where modelnet40_normal_resampled lies")
    options = parser.parse_args()
    systems = SYSTEMS if options.modelnet40 is None else {**SYSTEMS, "modelnet40": modelnet40(options.modelnet40)}
    if unknown := [name for name in options.systems if name not in systems]:
        parser.error(f"{', '.join(unknown)}: no such system; there are {', '.join(systems)}")
    if options.docs:
        for path, text in written().items():
            path.write_text(text)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.systems or systems:
            system = small(systems[name]) if options.small else systems[name]
            runs = Runs.read(system, Path(scratch) if options.small else RESULTS)
            runs.complete(options.ways or (FEW if system.of else list(WAYS)), options.seeds or system.seeds)
            print("", *map(section, all_findings([runs])), sep="\n")


if __name__ == "__main__":
    main()
