"""Terms that stand in for the forward of their module, because no hook reaches what they change.

The module's `forward` then calls a bound method of its term, which deepcopy and pickle carry, until `project` takes it off.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

from relaxify.modules.hanging import StandIn, stand_in
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.terms.term import Term
from relaxify.sites import Site


class StandInTerm(Term, abc.ABC):
    """A term that computes both its module and itself while it is active."""

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        super().__init__(site, config, keep_relaxed=keep_relaxed, like=like)
        # in a list, or it would be a child of its own child
        self._layers = [site.module]

    @property
    def layer(self) -> nn.Module:
        return self._layers[0]

    def act_on(self, module: nn.Module) -> None:
        stand_in(module, self.compute)

    @abc.abstractmethod
    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; `forward.own` is what it was without the term."""
