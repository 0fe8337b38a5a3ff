"""Trajectories of molecules from the command line.

python -m relaxify_examples.molecules generate DATA [--molecules ethanol aspirin] [--frames N] [--every STEPS]
python -m relaxify_examples.molecules show FILE
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from relaxify_examples.molecules.frames import load
from relaxify_examples.molecules.generation import DYNAMICS, generate


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after a sentence about what was given. `argv` is the command line's unless given."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except ValueError as error:
        print(f"molecules: {error}", file=sys.stderr)
        return 2
    return 0


def _generate(arguments: argparse.Namespace) -> None:
    changes = {name: getattr(arguments, name) for name in ("frames", "every", "settling", "seed")}
    given = {name: value for name, value in changes.items() if value is not None}
    for molecule in arguments.molecules:
        path, new = generate(replace(DYNAMICS[molecule], **given), arguments.data)
        print(f"{path} {'written' if new else 'is there'}", flush=True)


def _show(arguments: argparse.Namespace) -> None:
    frames = load(arguments.file)
    print(f"{len(frames):,} frames of {len(frames.numbers)} atoms")
    print(f"energies: standard deviation {1e3 * frames.energies.std():.0f} meV")
    print(f"forces: mean absolute component {1e3 * abs(frames.forces).mean():.0f} meV/Å")
    for name, value in frames.about.items():
        print(f"{name}: {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="molecules", description="Trajectories of molecules with energies and forces.")
    commands = parser.add_subparsers(required=True)

    simulating = commands.add_parser("generate", help="simulate the data (needs ASE and tblite)")
    simulating.set_defaults(command=_generate)
    simulating.add_argument("data", type=Path, help="folder of the data")
    simulating.add_argument("--molecules", nargs="+", default=list(DYNAMICS), choices=list(DYNAMICS))
    simulating.add_argument("--frames", type=int)
    simulating.add_argument("--every", type=int, help="steps between two frames")
    simulating.add_argument("--settling", type=int, help="steps before the first frame")
    simulating.add_argument("--seed", type=int)

    showing = commands.add_parser("show", help="what a file holds: one of these, of MD17 or of rMD17")
    showing.set_defaults(command=_show)
    showing.add_argument("file", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
