"""Terms that stand in for the forward of their layer, because no hook can keep a layer from computing what it computes.

The layer's `forward` is then a bound method of its term, so that deepcopy and pickle carry it, until `project` takes it off.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.terms.term import Term
from relaxify.sites import Site


class StandInTerm(Term, abc.ABC):
    """A term of one layer, which computes both the layer and itself while it is active."""

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        super().__init__(site, config, keep_relaxed=keep_relaxed, like=like)
        # in a list, or it would be a child of its own child
        self._layers = [site.module]

    @property
    def layer(self) -> nn.Module:
        return self._layers[0]

    @abc.abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's forward."""
