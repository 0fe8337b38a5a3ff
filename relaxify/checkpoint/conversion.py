"""From the checkpoint of a relaxed model to one of the plain model, without the model's code (CR sec. 3.3).

`drop` leaves the terms out; `fold` first adds to the layers' own weights what these can express of theta * W.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

from relaxify.checkpoint.output import TargetExistsError, check_source, check_target, replacing
from relaxify.checkpoint.plan import Conversion, Mode, Options, StatePlan, plan_states
from relaxify.checkpoint.safetensors_file import Piece, SafetensorsFile, open_safetensors, write_pieces
from relaxify.checkpoint.torch_file import (
    Memory,
    clean_state_dict,
    leave_out_optimizers,
    load_checkpoint,
    others,
    state_dict_of,
    walk,
)
from relaxify.record import CheckpointError

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")

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
    for path in (source, target):
        _check_suffix(path)
    check_target(target, source=source, force=force)
    empty = Conversion(source, target, mode, ())
    run = _from_safetensors if _is_safetensors(source) else _from_torch
    try:
        return run(empty, options, _Output(target, force, check))
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


@dataclass(frozen=True)
class _Output:
    """Where the result goes, and what checks it before it is put there."""

    target: Path
    force: bool
    check: Check | None

    def write(self, conversion: Conversion, write: Callable[[BinaryIO], None]) -> Conversion:
        with replacing(self.target, force=self.force) as (file, temporary):
            write(file)
            file.flush()
            if self.check is not None:
                self.check(temporary, conversion)
        return conversion


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _check_suffix(path: Path) -> None:
    if not _is_safetensors(path) and path.suffix.lower() not in TORCH_SUFFIXES:
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise CheckpointError(f"{path} has the suffix {path.suffix!r}, which tells no format; use one of {known}.")


def _from_safetensors(conversion: Conversion, options: Options, output: _Output) -> Conversion:
    with open_safetensors(conversion.source) as file:
        plan = plan_states([file.state], options)[0]
        conversion = replace(conversion, states=(plan.report,))
        if _is_safetensors(output.target):
            pieces = [_piece(file, plan, key, new) for key, new in plan.renamed().items()]
            return output.write(conversion, lambda out: write_pieces(out, pieces, file.metadata))
        # torch.save writes no metadata; anything but the format would be lost
        lost = () if file.metadata in (None, {"format": "pt"}) else ("__metadata__",)
        state_dict = OrderedDict((new, plan.load(key)) for key, new in plan.renamed().items())
        return output.write(replace(conversion, left_out=lost), lambda out: torch.save(state_dict, out))


def _piece(file: SafetensorsFile, plan: StatePlan, key: str, new_key: str) -> Piece:
    """An unchanged tensor is copied as it is, a folded one computed when its turn comes."""
    piece = file.piece(key, new_key)
    return piece.of_loaded(lambda: plan.load(key)) if key in plan.targets else piece


def _from_torch(conversion: Conversion, options: Options, output: _Output) -> Conversion:
    checkpoint = load_checkpoint(conversion.source)
    found = walk(checkpoint)
    plans = plan_states([state_dict_of(mapping, where) for mapping, where in found.state_dicts], options)
    conversion = replace(
        conversion,
        states=tuple(plan.report for plan in plans),
        left_out=tuple(".".join(map(str, where)) for _, where in found.optimizers),
    )
    mappings = {where: mapping for mapping, where in found.state_dicts}
    folded: Memory = []
    for plan in plans:
        clean_state_dict(mappings[plan.state.where], plan, folded)
    leave_out_optimizers(found)
    if not _is_safetensors(output.target):
        return output.write(conversion, lambda out: torch.save(checkpoint, out))
    if len(plans) > 1:
        names = " and ".join(repr(plan.report.name) for plan in plans)
        raise CheckpointError(f"it holds several state dicts ({names}), a .safetensors file one; write a .pt.")
    where = plans[0].state.where
    pieces = [Piece.of_tensor(key, value) for key, value in mappings[where].items()]
    left_out = (*conversion.left_out, *others(checkpoint, where))
    return output.write(replace(conversion, left_out=left_out), lambda out: write_pieces(out, pieces, None))
