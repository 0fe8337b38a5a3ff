"""Residual pathway priors (Finzi, Benton and Wilson 2021): theta stays, and two priors say how much is symmetric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.interrupts import completed
from relaxify.relaxation.controllers.attaching import Attachable
from relaxify.relaxation.controllers.controller import SavedState
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.real_numbers import is_finite
from relaxify.relaxation.switching import set_theta
from relaxify.relaxation.terms.term import owned_terms, terms_of


class RPP(Attachable):
    """Constant theta, and a loss term of Gaussian priors: basic_wd sum |W|^2 + equiv_wd sum |w_e|^2.

    W are the terms, w_e the weights of the layers that they are beside. Of a mean negative log-likelihood over n samples, a
    prior of standard deviation s is a decay of 1 / (2 n s^2): a W of the smaller deviation costs more, so what is symmetric
    goes to w_e. It is never annealed: relax with `keep_relaxed=True`, or project with `mode="fold"`.

    RuntimeError if the model is not relaxed; ValueError for decays that are negative or not finite.

        rpp = RPP(model, basic_wd=1e-2, equiv_wd=1e-5)
        loss = criterion(model(x), y) + rpp.loss_term()
    """

    def __init__(self, model: nn.Module, basic_wd: float, equiv_wd: float, *, theta: float = 1.0) -> None:
        for name, value in (("basic_wd", basic_wd), ("equiv_wd", equiv_wd)):
            if not (is_finite(value) and value >= 0):
                raise ValueError(f"RPP({name}={value!r}): a number >= 0.")
        self.model = model
        self.basic_wd, self.equiv_wd, self.theta = float(basic_wd), float(equiv_wd), float(theta)
        self.steps = 0
        self._lookout = Lookout(model, None)
        set_theta(model, self.theta)

    def loss_term(self) -> Float[Tensor, ""]:
        """basic_wd sum |W|^2 + equiv_wd sum |w_e|^2."""
        basic = torch.stack([term.matrix.square().sum() for term in terms_of(self.model).values()]).sum()
        equivariant = torch.stack([weight.square().sum() for weight in own_weights(self.model)]).sum()
        return self.basic_wd * basic + self.equiv_wd * equivariant

    def _step(self) -> None:
        self.steps += 1
        self._lookout.step()

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "schedule": "RPP",
            "steps": self.steps,
            "theta": self.theta,
            "basic_wd": self.basic_wd,
            "equiv_wd": self.equiv_wd,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved.

        ValueError, and nothing changes, if it was saved by another controller, or has numbers that make no sense.
        """
        saved = SavedState(state, self.state_dict())
        steps, theta = saved.steps, saved.number("theta")
        decays = saved.number("basic_wd", low=0), saved.number("equiv_wd", low=0)
        completed(lambda: self._resume(steps, theta, decays))

    def _resume(self, steps: int, theta: float, decays: tuple[float, float]) -> None:
        self.steps, self.theta = steps, theta
        self.basic_wd, self.equiv_wd = decays
        set_theta(self.model, theta)


def own_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that the relaxed layers' equivariant maps are made of, each once."""
    found: dict[int, nn.Parameter] = {}
    for owner, term in owned_terms(model):
        names = dict.fromkeys(path.parameter for path in term.map.paths)
        names |= dict.fromkeys(name for each in term.map.derived for name in each.derivation.parameters(term.layer))
        if term.map.convolution is not None:
            names[term.map.convolution.kernel.parameter] = None
        # a layer whose paths are not known has nothing else than its own parameters
        layer = model.get_submodule(owner)
        for name in names or [name for name, _ in layer.named_parameters(recurse=False)]:
            weight = layer.get_parameter(name)
            found[id(weight)] = weight
    return list(found.values())
