"""Terms that are added to what their module returns, by a forward hook: for every site that no other kind takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.terms.term import Term, argument_of
from relaxify.sites import Site


class HookedTerm(Term):
    """A term next to its layer, dense or of low rank."""

    @classmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        return site.map.convolution is None and not site.map.intercepts

    def act_on(self, module: nn.Module) -> None:
        module.register_forward_hook(self.hook, with_kwargs=True)
        if type(module) is nn.Linear:
            module.register_forward_pre_hook(self.lay_out, with_kwargs=True)

    def lay_out(self, module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """The forward pre-hook of an nn.Linear: its input as rows in memory, or None (leave it) when not active.

        F.linear copies an input that is not, for itself and out of reach; a copy made here serves the term as well, and its
        gradients meet in one layout.
        """
        if not self.active or not module.weight.requires_grad:
            return None
        x = argument_of(args, kwargs, 0, self.map.argument)
        if x.ndim < 3 or x.is_contiguous():
            return None
        return ((x.contiguous(), *args[1:]), kwargs) if args else (args, {**kwargs, self.map.argument: x.contiguous()})

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """The forward hook: output + theta * W x as a fresh tensor, or None (leave the output) when not active."""
        if not self.active:
            return None
        return self.added_to(output, argument_of(args, kwargs, 0, self.map.argument), args, kwargs)
