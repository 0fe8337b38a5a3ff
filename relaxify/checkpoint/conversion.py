"""From the checkpoint of a relaxed model to one of the plain model, without the model's code (CR sec. 3.3), and back.

`drop` leaves the terms out; `fold` first adds to the layers' own weights what these can express of theta * W. `relax` adds
the terms of a relaxed model.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from relaxify.checkpoint.container import Checkpoint
from relaxify.checkpoint.copying import FULL, Progress
from relaxify.checkpoint.destination import destination_of
from relaxify.checkpoint.formats import INDICES, checkpoint_at, container_at, uncollected
from relaxify.checkpoint.loading import check_loads
from relaxify.checkpoint.plan import Conversion, Mode, Options, StatePlan, plan_states
from relaxify.checkpoint.relaxing import relaxing_plans
from relaxify.checkpoint.source import check_source
from relaxify.output import TargetExistsError
from relaxify.record import CheckpointError

Check = Callable[[Path, Conversion], None]


def convert(
    source: Path | str,
    target: Path | str,
    *,
    mode: Mode = "drop",
    max_theta: float | None = None,
    force: bool = False,
    strip_prefix: bool = False,
    prefix: str = "",
    key: str = "",
    max_shard_size: int | str | None = None,
    check: Check | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write the plain model's checkpoint `target` from the relaxed model's checkpoint `source`, and say what was done.

    Both are .safetensors or torch.save files (.pt, .pth, .ckpt, .bin), told by their suffix, or a source with another by how
    it begins. The source may also be the index of several files (.safetensors.index.json, .bin.index.json), or a folder: of
    one checkpoint, or one that torch.distributed.checkpoint or DeepSpeed wrote. A target without a suffix is a new folder of
    safetensors files, of at most `max_shard_size` bytes each ("5GB"). State dicts are converted wherever they are nested.
    All else is carried over, except what only code could read, and optimizer states of which it cannot be told which
    parameters are terms'.

    `strip_prefix` removes what wrappers (`module.`, `_orig_mod.`, `model.` and the like) put before every key; `prefix` is
    another such, and leaves out what is not below it. Either fails if it changes no key. `key` ("ema", or
    "callbacks.ema.weights") chooses one of several state dicts, which is then written alone. `check` sees what was written
    before it takes its place, and prevents that by raising. `progress` is told (bytes done, bytes in all), from any thread.

    The target is written whole or not at all, over an existing file only if `force`, and never over the source.
    CheckpointError names what is wrong with the input or the output; ThetaError if a |theta| is above `max_theta`.
    """
    options = Options(mode, max_theta, strip_prefix, prefix, key)

    def plan(checkpoint: Checkpoint) -> tuple[StatePlan, ...]:
        return plan_states(checkpoint.states, options)

    job = Job(Path(source), Path(target), mode, key, force, max_shard_size)
    return _carry_out(job, plan, check, progress)


def relax(
    source: Path | str,
    target: Path | str,
    model: nn.Module,
    *,
    force: bool = False,
    strip_prefix: bool = False,
    key: str = "",
    max_shard_size: int | str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write the checkpoint `target` of a relaxed model from the plain model's `source`, to start relaxed training from it.

    `model` is the relaxed model, as `relaxify` makes it: every state dict in the source that loads into it, as it is or
    without wrappers' prefixes, gets the keys of its terms, with the values that these have when the plain weights are
    loaded. So the target loads with strict=True, and computes what the plain model does until theta is above 0. The
    model has the weights afterwards. All else is as in `convert`; optimizer states are left out, since none has seen
    the terms' parameters. CheckpointError names what is wrong, also if no state dict fits the model.
    """
    options = Options(strip_prefix=strip_prefix, key=key)

    def plan(checkpoint: Checkpoint) -> tuple[StatePlan, ...]:
        return relaxing_plans(checkpoint.weights(), model, options)

    job = Job(Path(source), Path(target), "relax", key, force, max_shard_size)
    return _carry_out(job, plan, lambda path, done: check_loads(model, path, done), progress)


@dataclass(frozen=True)
class Job:
    """From where to where, as what is asked for."""

    source: Path
    target: Path
    mode: Mode | Literal["relax"]
    key: str
    force: bool
    max_shard_size: int | str | None


def _carry_out(
    job: Job,
    plan: Callable[[Checkpoint], tuple[StatePlan, ...]],
    check: Check | None,
    progress: Progress | None,
) -> Conversion:
    """Read, plan, write, compare; all of it or nothing."""
    source, target = checkpoint_at(job.source), job.target
    texts = source.parent if source != job.source or source.name.endswith(INDICES) else None
    destination = destination_of(target, job.max_shard_size, texts, force=job.force)
    check_source(source)
    reader = container_at(source)
    destination.check((source,))
    try:
        with uncollected(), reader.opened(source) as opened:
            checkpoint = opened.chosen(job.key) if job.key else opened
            plans = plan(checkpoint)
            parts, left_out = destination.parts(checkpoint, plans)
            keys = [".".join(map(str, (*plan.state.where, key))) for plan in plans for key in plan.left_out]
            conversion = Conversion(source, target, job.mode, tuple(plan.report for plan in plans), (*keys, *left_out))
            with destination.filled(parts, [read.path for read in checkpoint.sources], progress) as written:
                for read in checkpoint.sources:
                    read.check_unchanged()
                if check is not None:
                    check(written(), conversion)
            return conversion
    except TargetExistsError:
        raise
    except CheckpointError as error:
        raise type(error)(f"{source}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        # torch says it in words alone
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise CheckpointError(
            f"{source} needs more memory than there is, so nothing was written; convert it on a larger machine."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{source} could not be converted to {target}: {error.strerror or error}; nothing was written: {_advice(error)}."
        ) from error


def _advice(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return "allow more open files, as by ulimit -n"
    return "free some space, or choose another folder" if error.errno in FULL else "choose another folder"
