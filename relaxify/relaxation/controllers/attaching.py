"""A controller that an optimizer steps, by torch's hook after each of its steps: the loop has nothing to call.

A schedule counts the steps of the loop. Of these a GradScaler leaves some out: then it calls no optimizer, and no hook runs.
Its own `step` is called all the same, so that is what is listened to.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from relaxify.relaxation.callers import argument_of_caller
from relaxify.relaxation.pitfalls import Lookout


class Attachable:
    """What all controllers have in common: `step()`, called by the loop, or by the optimizers that they are attached to."""

    model: nn.Module
    _lookout: Lookout
    _attachment: Attachment | None = None

    def step(self) -> None:
        """Move on by one optimizer step. RuntimeError if an optimizer that this is attached to does so already."""
        if self._attachment is not None and not self._attachment.is_stepping:
            raise RuntimeError(
                f"this {type(self).__name__} is attached to the optimizer, whose every step moves it on: leave out the call "
                "of step() in the loop, or call remove() of what attach returned."
            )
        self._step()

    def _step(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # a copy is stepped by no optimizer
        return {name: value for name, value in vars(self).items() if name != "_attachment"}

    def attach(self, *optimizers: Optimizer, scaler: GradScaler | None = None) -> Attachment:
        """Let the optimizer call `step()` after each of its own; the loop then does not. `remove()` of the result ends it.

        - `optimizers`: of several that step in turn, as in adversarial training, this moves on when each has stepped.
        - `scaler`: the GradScaler that steps them. Steps that it leaves out count as any other, as `total_steps` is of the
          loop. One that is not given is found when it lets the first step through; those before that are counted then.

        Resuming is as ever: load this controller's state dict too, before or after attaching. Under gradient accumulation
        the steps are the optimizer's, and not the micro-batches'. Warns once of terms that the optimizers do not hold.

        RuntimeError if it is attached already; ValueError if no optimizer is given, or one that has no hooks.

        >>> import torch
        >>> from relaxify import Cosine, relaxify
        >>> model = relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)")
        >>> optimizer, theta = torch.optim.SGD(model.parameters(), lr=0.1), Cosine(model, total_steps=8)
        >>> handle = theta.attach(optimizer)
        >>> optimizer.step(), optimizer.step(), theta.steps
        (None, None, 2)
        """
        if self._attachment is not None:
            raise RuntimeError(
                f"this {type(self).__name__} is attached already; call remove() of what attach returned, or attach it to "
                "several optimizers at once: attach(first, second)."
            )
        if not optimizers:
            raise ValueError("attach() was given no optimizer; pass the one that trains the model.")
        self._attachment = Attachment(self, tuple(map(_innermost, optimizers)), scaler or _scaler_of(optimizers))
        self._lookout.optimizers = self._attachment.optimizers
        return self._attachment


class Attachment:
    """A controller that moves on with the steps of optimizers, until `remove()`. In a `with`, until its end."""

    def __init__(self, controller: Attachable, optimizers: tuple[Optimizer, ...], scaler: GradScaler | None) -> None:
        self.controller, self.optimizers = controller, optimizers
        # whether it is this that calls the controller's `step()`
        self.is_stepping = False
        self._stepped: set[int] = set()
        # of a training that is going on, nobody knows since when its scale has fallen
        self._is_new = not any(optimizer.state for optimizer in optimizers)
        self._has_looked_for_scaler = False
        self._handles: list[_Handle] = [optimizer.register_step_post_hook(self._after_step) for optimizer in optimizers]
        if scaler is not None:
            self._listen_to(scaler)

    def remove(self) -> None:
        """Leave the optimizers as they were; from here on the loop calls `step()`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self.controller._attachment is self:
            self.controller._attachment = None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _listen_to(self, scaler: GradScaler) -> None:
        self._has_looked_for_scaler = True
        self._handles.append(_ScalerStep(scaler, self))

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._has_looked_for_scaler:
            self._look_for_scaler()
        self.count(optimizer)

    def _look_for_scaler(self) -> None:
        self._has_looked_for_scaler = True
        scaler = argument_of_caller(GradScaler.step, "self")
        if isinstance(scaler, GradScaler):
            self._listen_to(scaler)
            for _ in range(_left_out(scaler) if self._is_new else 0):
                self._step()

    def count(self, optimizer: Optimizer) -> None:
        """That an optimizer has stepped, or was to: a step of the loop is over when all have."""
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self.optimizers):
            self._stepped.clear()
            self._step()

    def _step(self) -> None:
        self.is_stepping = True
        try:
            self.controller.step()
        finally:
            self.is_stepping = False


class _Handle(Protocol):
    def remove(self) -> None: ...


class _ScalerStep:
    """Stands in for `step` of a GradScaler, and counts the steps that it leaves out."""

    def __init__(self, scaler: GradScaler, attachment: Attachment) -> None:
        self.scaler, self.attachment = scaler, attachment
        self.before = vars(scaler).get("step")
        self.let_through = 0
        self._hooks = [optimizer.register_step_post_hook(self._note) for optimizer in attachment.optimizers]
        vars(scaler)["step"] = self

    def __call__(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        before = self.let_through
        step = self.before or type(self.scaler).step.__get__(self.scaler)
        result = step(optimizer, *args, **kwargs)
        inner = _innermost(optimizer)
        if self.let_through == before and any(inner is each for each in self.attachment.optimizers):
            self.attachment.count(inner)
        return result

    def _note(self, *_: Any) -> None:
        self.let_through += 1

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if vars(self.scaler).get("step") is self:
            del vars(self.scaler)["step"]
            if self.before is not None:
                vars(self.scaler)["step"] = self.before


def _innermost(optimizer: Any) -> Optimizer:
    """The optimizer that steps, within what Accelerate wraps around it."""
    while not _has_hooks(optimizer) and isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not _has_hooks(optimizer):
        raise ValueError(
            f"a {type(optimizer).__name__} has no hooks after its steps (register_step_post_hook), so nothing can be "
            "attached to it; call the controller's step() after each of its steps."
        )
    return optimizer


def _has_hooks(optimizer: object) -> bool:
    # what inherits from Optimizer without being made as one has the method, and nowhere to put a hook
    return hasattr(optimizer, "register_step_post_hook") and hasattr(optimizer, "_optimizer_step_post_hooks")


def _scaler_of(optimizers: tuple[Any, ...]) -> GradScaler | None:
    """The scaler that Accelerate keeps with its optimizers."""
    scalers = (getattr(optimizer, "scaler", None) for optimizer in optimizers)
    return next((scaler for scaler in scalers if isinstance(scaler, GradScaler)), None)


def _left_out(scaler: GradScaler) -> int:
    """How many steps a scaler that has let through none has left out since it was made or loaded: each lowers its scale."""
    start, factor = scaler._init_scale, scaler.get_backoff_factor()
    return max(0, round(math.log(scaler.get_scale() / start) / math.log(factor))) if start else 0
