"""Going on with a training that is not of the length that it had when it was saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from relaxify.interrupts import completed
from relaxify.relaxation.controllers.controller import Controller
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.switching import thetas

# what the program says when it resumes counts, as the optimizer's own arguments do
_SAID_ANEW = ("total_steps", "until", "peak")


def go_on(controller: Controller, saved: Mapping[str, Any], model: nn.Module) -> str:
    """Load what was saved into a controller made for the training as it is now; what that does to theta, or "" if nothing.

    theta goes on by the length, the `until` and the `peak` that the controller was made with.

    >>> import torch
    >>> from relaxify import Triangle, relaxify
    >>> model = relaxify(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), "C(4)")
    >>> saved = {**Triangle(model, 4).state_dict(), "steps": 2}
    >>> go_on(Triangle(model, 4), saved, model)
    ''
    >>> print(go_on(Triangle(model, 16), saved, model))
    the training goes on otherwise than it began: total_steps is 16, and was 4. From here, step 2, theta is that of a
    training which had been so from its start: 0.5 now, where it was 0, and 0 from step 8 on.
    """
    own = controller.state_dict()
    state = {**saved, **{name: own[name] for name in _SAID_ANEW if name in own and name in saved}}
    with warnings.catch_warnings():
        # of two lengths is told below
        warnings.simplefilter("ignore", PitfallWarning)
        controller.load_state_dict(saved)
        if state == dict(saved):
            return ""
        before = _largest(model)
        controller.load_state_dict(state)
    names = [name for name in _SAID_ANEW if state.get(name) != saved.get(name)]
    changes = "; ".join(f"{name} is {state[name]}, and was {saved[name]}" for name in names)
    return (
        f"the training goes on otherwise than it began: {changes}. From here, step {saved.get('steps')}, theta is that of a "
        f"training which had been so from its start: {_largest(model):.3g} now, where it was {before:.3g}{_end_of(state)}."
    )


def resumed(own: Mapping[str, Any], saved: Mapping[str, Any], resume: Callable[[], None]) -> None:
    """Resume a controller of this state with that one, and warn if the program had said another length, `until` or `peak`.

    The warning comes first, so that who makes errors of warnings has a controller that is as it was.
    """
    if changed := {name: own[name] for name in _SAID_ANEW if name in own and name in saved and own[name] != saved[name]}:
        made, loaded = (", ".join(f"{name}={state[name]}" for name in changed) for state in (own, saved))
        anew = ", ".join(f"{name!r}: {value}" for name, value in changed.items())
        warnings.warn(
            f"this {own['schedule']} was made with {made}, and goes on by the state that it loaded, with {loaded}; to go on "
            f"by what it was made with, load {{**state, {anew}}}.",
            PitfallWarning,
            stacklevel=3,
        )
    completed(resume)


def _largest(model: nn.Module) -> float:
    return max(map(abs, thetas(model).values()))


def _end_of(state: Mapping[str, Any]) -> str:
    """From where on theta is 0, in words."""
    if state.get("until") is None or "total_steps" not in state:
        return ""
    end = state["until"] * state["total_steps"]
    if end <= state["steps"]:
        return ", and 0 from here on, unless a controller with a larger until is given"
    return f", and 0 from step {end:g} on"
