"""Terms that stand in for the forward of their module, because no hook reaches what they change.

The module's `forward` then calls a bound method of its term, which deepcopy and pickle carry, until `project` takes it off.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import fx, nn

from relaxify.modules.hanging import StandIn, attach, stand_in
from relaxify.relaxation.terms.term import Term


class StandInTerm(Term, abc.ABC):
    """A term that computes both its module and itself while it is active."""

    def act_on(self, module: nn.Module) -> None:
        stand_in(module, self.compute)
        if isinstance(module, fx.GraphModule):
            # its copies keep the children that the graph calls, and no others
            module._register_deepcopy_hook(self._hang_copy_on)

    def _hang_copy_on(self, module: fx.GraphModule) -> None:
        """Hang this term's copy, to which the copy of this very hook is bound, on the copy of its module."""
        terms = [getattr(hook, "__self__", None) for hook in module._deepcopy_hooks]
        for term in (term for term in terms if isinstance(term, StandInTerm) and term.operand == self.operand):
            attach(module, term, term.operand)
            stand_in(module, term.compute)

    @abc.abstractmethod
    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; `forward.own` is what it was without the term."""
