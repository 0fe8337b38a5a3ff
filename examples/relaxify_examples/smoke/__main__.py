"""Smoke plumes from the command line.

python -m relaxify_examples.smoke generate DATA [--full]
python -m relaxify_examples.smoke train DATA --out DIR [--full] [--rows Equiv Equiv+relax ...]
python -m relaxify_examples.smoke pack DATA --symmetry rotation --out FILE
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from relaxify_examples.smoke.data import load
from relaxify_examples.smoke.experiment import FULL as FULL_SETTINGS
from relaxify_examples.smoke.experiment import ROWS, Settings, runs, table
from relaxify_examples.smoke.generation import FULL, SMALL, SYMMETRIES, generate
from relaxify_examples.smoke.packing import pack


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after a sentence about what was given. `argv` is the command line's unless given."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except ValueError as error:
        print(f"smoke: {error}", file=sys.stderr)
        return 2
    return 0


def _generate(arguments: argparse.Namespace) -> None:
    recipes = FULL if arguments.full else SMALL
    changes = _given({name: getattr(arguments, name) for name in ("size", "steps", "simulations")})
    for symmetry in arguments.symmetries:
        for path, new in generate(replace(recipes[symmetry], **changes), arguments.data / symmetry):
            print(f"{path} {'written' if new else 'is there'}", flush=True)


def _pack(arguments: argparse.Namespace) -> None:
    pack(load(arguments.data / arguments.symmetry, arguments.symmetry), arguments.out)
    print(f"{arguments.out} written: {arguments.out.stat().st_size:,} bytes")


def _train(arguments: argparse.Namespace) -> None:
    base = FULL_SETTINGS if arguments.full else Settings()
    budget = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "learning_rate")}
    task = {name: getattr(arguments, name) for name in ("horizon", "reach")}
    settings = replace(
        base,
        task=replace(base.task, **_given(task)),
        budget=replace(base.budget, **_given(budget)),
        symmetries=tuple(arguments.symmetries),
        rows=tuple(arguments.rows),
        **_given({"seeds": arguments.seeds, "parameters": arguments.parameters}),
    )
    data = {symmetry: load(arguments.data / symmetry, symmetry).to(arguments.device) for symmetry in settings.symmetries}
    results = []
    for run in runs(data, settings, arguments.out):
        results.append(run)
        errors = f"future {run.future:.4f}  domain {run.domain:.4f}"
        print(f"{run.symmetry:8} {run.row:12} seed {run.seed}: {errors}  ({run.parameters:,} parameters)", flush=True)
    print(table(results))


def _given(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smoke", description="Smoke plumes: CR Table 2.")
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("data", type=Path, help="folder of the data; each symmetry has its own inside")
    common.add_argument("--symmetries", nargs="+", default=list(SYMMETRIES), choices=list(SYMMETRIES))
    common.add_argument("--full", action="store_true", help="the published sizes; other options given still count")
    common.add_argument("--threads", type=int, default=1)

    simulating = commands.add_parser("generate", parents=[common], help="simulate the data (needs PhiFlow)")
    simulating.set_defaults(command=_generate)
    simulating.add_argument("--size", type=int, help="cells a side of the frames")
    simulating.add_argument("--steps", type=int)
    simulating.add_argument("--simulations", type=int)

    training = commands.add_parser("train", parents=[common], help="train, test, and print the table")
    training.set_defaults(command=_train)
    training.add_argument("--device", default="cpu")
    training.add_argument("--out", type=Path, required=True, help="results.json is kept here, and gone on with")
    training.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    training.add_argument("--seeds", type=int)
    training.add_argument("--epochs", type=int)
    training.add_argument("--batch-size", type=int)
    training.add_argument("--learning-rate", type=float)
    training.add_argument("--parameters", type=int, help="upper bound on every network's size")
    training.add_argument("--horizon", type=int, help="frames predicted in training")
    training.add_argument("--reach", type=int, help="frames predicted in the tests")

    packing = commands.add_parser("pack", help="one data set in one small file, rounded to 1/256 cells a step")
    packing.set_defaults(command=_pack, threads=1)
    packing.add_argument("data", type=Path, help="folder of the data, as for the others")
    packing.add_argument("--symmetry", required=True, choices=list(SYMMETRIES))
    packing.add_argument("--out", type=Path, required=True, help="a .npz file, which is overwritten")
    return parser


if __name__ == "__main__":
    sys.exit(main())
