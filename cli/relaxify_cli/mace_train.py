"""`relaxify mace-train`: MACE's training program with all its arguments, relaxed."""

from __future__ import annotations

import argparse
import logging
from typing import Annotated, Any, Literal

import typer

from relaxify_cli.errors import ThresholdError

EXAMPLE = "relaxify mace-train --name water --train_file train.xyz --valid_fraction 0.1 --max_num_epochs 100 --ema"

CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True}


def mace_train(
    context: typer.Context,
    group: Annotated[str, typer.Option("--group", "-g", help="The symmetry group of the model.")] = "O3",
    include: Annotated[
        list[str] | None, typer.Option("--relax-include", metavar="GLOB", help="Only layers at such paths; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--relax-exclude", metavar="GLOB", help="No layer at such paths; may be repeated.")
    ] = None,
    schedule: Annotated[
        Literal["triangle", "cosine", "constant"], typer.Option("--relax-schedule", help="How theta moves.")
    ] = "triangle",
    peak: Annotated[float, typer.Option("--peak", help="The largest theta.")] = 1.0,
    until: Annotated[float, typer.Option("--until", help="The fraction of all steps from which on theta is 0.")] = 0.5,
    share: Annotated[
        float, typer.Option("--share", min=0, help="The most that a term may be of its layer's output; 0: no bound.")
    ] = 0.05,
    weight: Annotated[float, typer.Option("--relax-weight", min=0, help="lambda_reg of the penalty.")] = 0.01,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Terms of low rank; dense without.")] = None,
    lr: Annotated[float | None, typer.Option("--relax-lr", min=0, help="The terms' learning rate; --lr without.")] = None,
    check: Annotated[
        bool, typer.Option("--relax-check/--no-relax-check", help="Measure first that the model has the symmetry.")
    ] = True,
) -> None:
    """Train a MACE as mace_run_train does, relaxed, and save the plain model.

    All other arguments are mace_run_train's: `mace_run_train --help` lists them.
    """
    from relaxify import RelaxConfig
    from relaxify.mace import Relaxation, train
    from relaxify.mace.hook_points import training_program

    config = RelaxConfig(weight=weight, share=share or None, rank=rank)
    relaxation = Relaxation(group, tuple(include or ()), tuple(exclude or ()), config, schedule, peak, until, lr, check)
    arguments = _parsed(training_program(), context.args)
    try:
        train(arguments, relaxation)
    except (ValueError, OSError, ThresholdError):
        raise
    except Exception as error:
        logging.getLogger("relaxify").exception("MACE has stopped")
        raise ValueError(f"MACE has stopped with {type(error).__name__}: {error}; its log shows where.") from error


def _parsed(program: Any, arguments: list[str]) -> argparse.Namespace:
    parser = program.tools.build_default_arg_parser()
    parser.prog = "relaxify mace-train"
    return parser.parse_args(arguments)
