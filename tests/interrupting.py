"""Ctrl-C at any line of relaxify's own code, one at a time, and what of a training may not have changed by it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode

import relaxify
from relaxify import penalty, projected, relaxed
from relaxify.record import Record
from relaxify.relaxation.terms.term import terms_of

OWN = str(Path(relaxify.__file__).parent)
# where torch enters and leaves the modes of a `with` statement
MODES = torch.overrides.__file__


class Interrupter:
    """Raises KeyboardInterrupt before the `point`-th line that is run; `lines` counts them, and `at` says where it was.

    Of relaxify's files, and of torch's that sets modes aside, only those that end in `where`.
    """

    def __init__(self, point: int | None, where: str) -> None:
        self.point, self.lines, self.at, self.where = point, 0, "", where

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        is_watched = file == MODES or file.startswith(OWN)
        return self.line if is_watched and file.endswith(self.where) else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            if self.lines == self.point:
                self.at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
            self.lines += 1
        return self.line


def lines_of(action: Callable[[], Any], where: str = "") -> int:
    """How many lines of relaxify an action runs."""
    counter = Interrupter(None, where)
    _run(action, counter)
    return counter.lines


def interrupt(action: Callable[[], Any], point: int, where: str = "") -> str:
    """Run an action with a Ctrl-C before its `point`-th line of relaxify, if it has as many: where that was."""
    interrupter = Interrupter(point, where)
    try:
        _run(action, interrupter)
    except KeyboardInterrupt:
        return interrupter.at
    assert not interrupter.at, f"the interrupt at {interrupter.at} was swallowed"
    return "the end"


def _run(action: Callable[[], Any], interrupter: Interrupter) -> None:
    before = sys.gettrace()
    sys.settrace(interrupter)
    try:
        action()
    finally:
        sys.settrace(before)


@dataclass
class Training:
    """A relaxed model in the middle of a training, with what trains it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    theta: Any
    batch: tuple[Tensor, ...]

    def loss(self) -> Tensor:
        return (self.model(*self.batch) - 1).square().mean()

    def backward(self) -> None:
        (self.loss() + penalty(self.model)).backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.theta.step()

    def forget(self) -> None:
        """Read the penalty of what was seen, and leave out the step that was begun."""
        if any(not term.sketch.stale for term in terms_of(self.model).values()):
            penalty(self.model)
        self.optimizer.zero_grad()
        for term in terms_of(self.model).values():
            if term.nudge is not None:
                term.nudge.grad = None


@torch.no_grad()
def fingerprint(training: Training) -> dict[str, Any]:
    """All that an interrupt may not leave half changed, comparable by ==."""
    model, terms = training.model, terms_of(training.model)
    hanging, process = anatomy(model), process_state()
    outputs = {}
    for name, context in (("relaxed", relaxed), ("projected", projected)):
        with context(model) if terms else nullcontext():
            outputs[name] = model(*training.batch)
    for path, term in terms.items():
        outputs |= {f"fold/{path}/{name}/{offset}": part for name, offset, part in term.updates()}
    return {
        **{key: _bits(value) for key, value in (model.state_dict() | outputs).items()},
        "theta": training.theta.state_dict(),
        "terms": [(path, term.finished, term.forced, term.nudge is None) for path, term in terms.items()],
        "modules": hanging,
        "process": process,
    }


def anatomy(model: nn.Module) -> list[Any]:
    """What hangs where, by name."""
    return [
        (
            path,
            type(module).__name__,
            module.training,
            sorted(vars(module).keys() - {"_cached_at"}),
            list(module._modules),
            list(module._parameters),
            list(module._buffers),
            [len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._load_state_dict_pre_hooks)],
            len(_stand_ins(module)),
        )
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def _stand_ins(module: nn.Module) -> list[Any]:
    forward, found = vars(module).get("forward"), []
    while forward is not None:
        found.append(forward)
        forward = getattr(forward, "before", None)
    return found


def process_state() -> tuple[Any, ...]:
    """What a library can leave behind in its process."""
    modes = (
        len(_get_current_function_mode_stack()),
        torch._C._len_torch_dispatch_stack(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
    )
    hooks = len(torch.nn.modules.module._global_forward_hooks)
    # not Python's own random numbers, which this test run's checks of types draw from
    return (*modes, torch.get_rng_state().numpy().tobytes(), len(warnings.filters), hooks)


def leave_modes() -> None:
    """What a test has found left behind, so that the next does not."""
    while _get_current_function_mode_stack():
        _pop_mode()
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", False)


def _bits(value: Tensor) -> tuple[Any, ...]:
    if value.dtype == torch.uint8 and value.ndim == 1:
        # a pass that was interrupted counts in the stream of sampled rows
        value = replace(Record.decode(value), updates=0).encode()
    flat = value.detach().contiguous().reshape(-1)
    return value.dtype, tuple(value.shape), flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
