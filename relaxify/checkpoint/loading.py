"""Loading a checkpoint into a model with strict=True, wherever its state dict is nested and whatever wraps its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from relaxify.checkpoint.formats import opened
from relaxify.checkpoint.plan import Conversion
from relaxify.checkpoint.prefixes import BESIDE, wrapper_prefix
from relaxify.checkpoint.state import StateDict

LONGEST_REASON = 500


class LoadError(ValueError):
    """A state dict that does not load into a model: `what` it is, the `model`'s class, and torch's `reason`."""

    def __init__(self, what: str, model: nn.Module, reason: str) -> None:
        self.what, self.model, self.reason = what, type(model).__name__, reason[:LONGEST_REASON]
        super().__init__(f"{what} does not load into {self.model} ({self.reason}); pass the model that it was saved from.")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the first state dict of a checkpoint that fits, with strict=True. LoadError if none does.

    State dicts are looked for wherever they are nested, and are tried with and without the prefixes that wrappers
    (`module.`, `_orig_mod.`, `_module.`, `model.`) put before every key.
    """
    reason = "it holds no state dict"
    with opened(path) as (_, checkpoint):
        for state in checkpoint.weights():
            if (failed := _load(model, state)) is None:
                return
            reason = failed
    raise LoadError(str(path), model, reason)


def check_loads(model: nn.Module, path: Path, conversion: Conversion) -> None:
    """LoadError unless every converted state dict in the file `path` loads with strict=True, but for wrappers' prefixes."""
    for converted in conversion.states:
        load_state(model, path, converted.where)


def load_state(model: nn.Module, path: Path, where: tuple[Any, ...], *, prefix: str = "") -> None:
    """Load the state dict at this place with strict=True, without `prefix` and wrappers' prefixes, or LoadError."""
    with opened(path) as (_, checkpoint):
        states = {state.where: state for state in (*checkpoint.states, *checkpoint.weights())}
        # where there is one alone, that is meant
        state = next(iter(states.values())) if len(states) == 1 else states.get(where)
        reason = "there is none" if state is None else _load(model, state, prefix)
    if reason is not None:
        raise LoadError(".".join(map(str, where)) or "the state dict", model, reason)


def _load(model: nn.Module, state: StateDict, prefix: str = "") -> str | None:
    """Load it as it is, or without its wrappers' prefixes; or else what torch said last."""
    fitting, reason = load_fitting(model, state, below=prefix)
    return None if fitting is not None else reason


def load_fitting(model: nn.Module, state: StateDict, below: str = "") -> tuple[str | None, str]:
    """The prefix without which a state dict loads; None, and what torch said, if there is none.

    What averages of weights keep beside the model's keys does not count, and what is not `below` another prefix.
    """
    reason = "it holds no tensors"
    keys = [key for key in state.shapes if key.startswith(below) and key not in BESIDE]
    state_dict = {key.removeprefix(below): state.load(key) for key in keys}
    for prefix in _wrappers(state_dict):
        attempt = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        try:
            model.load_state_dict(_with_shared(model, attempt), strict=True)
        # a term's record may be another's
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
        else:
            return prefix, ""
    return None, reason


def _with_shared(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, Any]:
    """With what the model has under several names under all of them: some libraries save it under one."""
    own = model.state_dict(keep_vars=True)
    saved = {id(value): key for key, value in own.items() if key in state_dict}
    missing = {key: saved[id(value)] for key, value in own.items() if key not in state_dict and id(value) in saved}
    return state_dict | {key: state_dict[other] for key, other in missing.items()}


def _wrappers(state_dict: Mapping[str, Any]) -> Iterator[str]:
    """Nothing, and what wrappers put before the keys, one more each time."""
    prefix = ""
    yield prefix
    for part in wrapper_prefix(state_dict).split(".")[:-1]:
        prefix += f"{part}."
        yield prefix
