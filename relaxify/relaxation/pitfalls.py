"""What goes wrong in relaxed trainings without an error, looked for while they run: each is said once, with its fix."""

from __future__ import annotations

import math
import warnings

from torch import nn
from torch.optim import Optimizer

from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.shares import relaxed_share
from relaxify.relaxation.terms.term import Term, terms_of

# of a layer's output: what is lost without much notice when the terms go
SMALL_SHARE = 0.01
LARGE_SHARE = 0.05
# of its peak: a learning rate that mends little of what is lost when the terms go
LOW_RATE = 0.1
# steps between two looks
EVERY = 20
# training passes after which theta should have moved
PATIENCE = 100


class PitfallWarning(UserWarning):
    """Something that spoils a relaxed training and raises no error."""


def check_is_optimizer(optimizer: object) -> None:
    """ValueError for what has no groups of parameters."""
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(f"a {type(optimizer).__name__} is no optimizer; pass the one that trains the model.")


class Lookout:
    """Looks at a relaxed model and the optimizer that trains it, step by step, and warns of each pitfall once."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self.model = model
        if optimizer is not None:
            check_is_optimizer(optimizer)
        self.optimizers: tuple[Optimizer, ...] = () if optimizer is None else (optimizer,)
        self._steps = 0
        self._peak_rate = 0.0
        self._has_told_of_rate = self._has_told_of_theta = self._has_told_of_end = False

    def step(self) -> None:
        """Costs a look at the learning rate, and, once that is low, now and then a share of the output."""
        if not self.optimizers:
            return
        if self._steps == 0:
            self._tell(terms_outside(self.model, *self.optimizers) or terms_alone(self.model))
        if self._steps % EVERY == 0 and self._rate() < LOW_RATE and not self._has_told_of_rate:
            self._has_told_of_rate = self._tell(acting_at_low_rate(self.model, self._rate()))
        self._steps += 1

    def look_at_end(self, steps: int, total_steps: int, end: float) -> None:
        """Costs nothing: whether a schedule that ends is trained on for longer than it was made for."""
        if not self._has_told_of_end and steps > total_steps and end < math.inf:
            self._has_told_of_end = self._tell(past_the_end(total_steps, end))

    def look_at_theta(self) -> None:
        """Costs a look at each term."""
        if not self._has_told_of_theta:
            self._has_told_of_theta = self._tell(never_acted(self.model))

    def _rate(self) -> float:
        """The learning rate as a part of its peak."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        rate = max(float(group["lr"]) for group in groups)
        starts = (float(group.get("initial_lr", 0)) for group in groups)
        self._peak_rate = max(self._peak_rate, rate, *starts)
        return rate / self._peak_rate if self._peak_rate else 1.0

    def _tell(self, sentence: str | None) -> bool:
        if sentence is not None:
            warnings.warn(sentence, PitfallWarning, stacklevel=5)
        return sentence is not None


def terms_outside(model: nn.Module, *optimizers: Optimizer) -> str | None:
    """Terms that none of the optimizers holds."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    terms = terms_of(model)
    # sharded training and the like put parameters of their own in the place of these
    outside = [path for path, term in terms.items() if not any(id(p) in held for p in term.parameters())]
    if not outside:
        return None
    return (
        f"the optimizer holds no weights of {_named(outside)}, so these terms stay zero: make the optimizer after "
        "relaxify(model, ...), or call add_terms(optimizer, model)."
    )


def terms_alone(model: nn.Module) -> str | None:
    """Terms that learn in a model that does not."""
    of_terms = {id(parameter) for term in terms_of(model).values() for parameter in term.parameters()}
    if any(p.requires_grad for p in model.parameters() if id(p) not in of_terms):
        return None
    return (
        "all weights of the model are frozen and its terms alone learn, of which nothing is left once theta is 0: unfreeze "
        "weights (requires_grad_()), unless these terms are to be folded."
    )


def acting_at_low_rate(model: nn.Module, rate: float) -> str | None:
    """Terms that act while the learning rate is a small part `rate` of its peak."""
    acting = _acting(model, LARGE_SHARE)
    if not acting:
        return None
    return (
        f"the terms of {_named(acting)} are {max(acting.values()):.0%} of the layers' outputs, and the learning rate is at "
        f"{rate:.0%} of its peak: too little is left to train without them; end theta earlier (until=0.5, or less)."
    )


def never_acted(model: nn.Module) -> str | None:
    """Terms whose theta was 0 in all of many training passes."""
    terms = [term for term in terms_of(model).values() if not term.sketch.is_empty]
    if not terms or any(bool(term.largest_theta) or term.finished for term in terms):
        return None
    if max(term.sketch.updates for term in terms) < PATIENCE:
        return None
    return (
        "theta was 0 in every training pass so far, so the terms never acted: make a controller, such as "
        "Triangle(model, total_steps), and call its step() after every optimizer step."
    )


def never_learned(model: nn.Module) -> str | None:
    """Terms that are all still zero after many training passes in which they acted."""
    terms = [term for term in terms_of(model).values() if bool(term.largest_theta)]
    if not terms or max(term.sketch.updates for term in terms) < PATIENCE or any(bool(term.matrix.any()) for term in terms):
        return None
    return (
        "the terms acted in training and are all still zero: no optimizer holds them, or no gradient reaches them; make the "
        "optimizer after relaxify(model, ...), or call add_terms(optimizer, model)."
    )


def past_the_end(total_steps: int, end: float) -> str:
    """A schedule that was made for a shorter training."""
    return (
        f"this is step {total_steps + 1:,} of a training that was to have {total_steps:,} (total_steps): theta has been 0 "
        f"since step {math.ceil(end):,} and stays 0; give the controller the optimizer steps of the whole training, and "
        "when resuming a longer one, set total_steps in the state that you load."
    )


def still_acting(model: nn.Module) -> str | None:
    """Terms that would be missed if they were dropped now."""
    acting = _acting(model, SMALL_SHARE)
    if not acting:
        return None
    return (
        f"the terms of {_named(acting)} still act, with up to {max(acting.values()):.0%} of the layers' outputs, and are "
        "lost: project after theta has come to 0, or use mode='fold' or 'fit' to keep what of them is equivariant."
    )


def _acting(model: nn.Module, share: float) -> dict[str, float]:
    """The shares that are larger than this; none of a sharded model, whose layers no process has whole."""
    if sharded_modules(model):
        return {}
    found = {path: relaxed_share(term) for path, term in terms_of(model).items() if _acts(term)}
    return {path: value for path, value in found.items() if value is not None and value > share}


def _acts(term: Term) -> bool:
    return not term.finished and bool(term.theta)


def _named(paths: dict[str, float] | list[str]) -> str:
    """Some of the paths.

    >>> _named(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    first = ", ".join(map(repr, list(paths)[:3]))
    return first + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
