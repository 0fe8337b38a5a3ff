"""From the checkpoint of a relaxed model to one of the plain model, without the model's code (CR sec. 3.3).

`drop` leaves the terms out; `fold` first adds to the layers' own weights what these can express of theta * W.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relaxify.checkpoint.formats import container_of
from relaxify.checkpoint.output import TargetExistsError, check_source, check_target, replacing
from relaxify.checkpoint.plan import Conversion, Mode, Options, plan_states
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
    check: Check | None = None,
) -> Conversion:
    """Write the plain model's checkpoint `target` from the relaxed model's checkpoint `source`, and say what was done.

    Both are .safetensors or torch.save files (.pt, .pth, .ckpt, .bin), told by their suffix. State dicts are converted
    wherever they are nested; all else is carried over, except optimizer states. `strip_prefix` removes what wrappers
    (`module.`, `_orig_mod.`, `_module.`, `model.`) put before every key. `check` sees the finished file before it takes
    its place, and prevents that by raising.

    The target is written whole or not at all, over an existing file only if `force`, and never over the source.
    CheckpointError names what is wrong with the input or the output; ThetaError if a |theta| is above `max_theta`.
    """
    source, target = Path(source), Path(target)
    options = Options(mode, max_theta, strip_prefix)
    check_source(source)
    reader, writer = container_of(source), container_of(target)
    check_target(target, source=source, force=force)
    try:
        with reader.opened(source) as checkpoint:
            plans = plan_states(checkpoint.states, options)
            write, left_out = writer.written(checkpoint, plans)
            conversion = Conversion(source, target, mode, tuple(plan.report for plan in plans), left_out)
            with replacing(target, force=force) as (file, temporary):
                write(file)
                file.flush()
                if check is not None:
                    check(temporary, conversion)
            return conversion
    except TargetExistsError:
        raise
    except CheckpointError as error:
        raise type(error)(f"{source}: {error}") from error
    except (OSError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{source} could not be converted to {target}: {_reason(error)}; nothing was written: free some space, or "
            f"choose another folder."
        ) from error


def _reason(error: BaseException) -> str:
    """What the system said: torch wraps it in an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()) or "out of memory"
