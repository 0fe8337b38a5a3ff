"""From the checkpoint of a relaxed model to one of the plain model, without the model's code (CR sec. 3.3).

`drop` leaves the terms out; `fold` first adds to the layers' own weights what these can express of theta * W.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

from relaxify.checkpoint.copying import FULL, Progress
from relaxify.checkpoint.destination import destination_of
from relaxify.checkpoint.formats import INDICES, checkpoint_at, container_of
from relaxify.checkpoint.plan import Conversion, Mode, Options, plan_states
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

    Both are .safetensors or torch.save files (.pt, .pth, .ckpt, .bin), told by their suffix; the source may also be the
    index of several (.safetensors.index.json), or the folder of a single checkpoint. State dicts are converted
    wherever they are nested; all else is carried over, except optimizer states. `strip_prefix` removes what wrappers
    (`module.`, `_orig_mod.`, `model.` and the like) put before every key; `prefix` is another such, and leaves out what is
    not below it. Either fails if it changes no key. `key` ("ema", or "callbacks.ema.weights") chooses one of several state
    dicts, which is then written alone. `check` sees the finished file before it takes its place, and prevents
    that by raising. `progress` is told (bytes done, bytes in all), from any thread.

    The target is written whole or not at all, over an existing file only if `force`, and never over the source.
    CheckpointError names what is wrong with the input or the output; ThetaError if a |theta| is above `max_theta`.
    """
    given, target = Path(source), Path(target)
    source = checkpoint_at(given)
    options = Options(mode, max_theta, strip_prefix, prefix, key)
    texts = source.parent if source != given or source.name.endswith(INDICES) else None
    destination = destination_of(target, max_shard_size, texts, force=force)
    check_source(source)
    reader = container_of(source)
    destination.check((source,))
    try:
        with _uncollected(), reader.opened(source) as opened:
            checkpoint = opened.chosen(key) if key else opened
            plans = plan_states(checkpoint.states, options)
            parts, left_out = destination.parts(checkpoint, plans)
            keys = [".".join(map(str, (*plan.state.where, key))) for plan in plans for key in plan.left_out]
            conversion = Conversion(source, target, mode, tuple(plan.report for plan in plans), (*keys, *left_out))
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


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for circles, which would look at each of a million small objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _advice(error: OSError) -> str:
    return "free some space, or choose another folder" if error.errno in FULL else "choose another folder"
