"""Terms of functional ops: an einsum or matmul with a Parameter in somebody's forward, which no module hook can reach.

While the module that owns the Parameter runs its forward, a function mode watches for the op and adds theta * W x to what it
returns. The module stays the very object it was, with its class, attributes and methods.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relaxify.graph.contractions import contraction
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.terms.term import Term
from relaxify.sites import Site


class InterceptingTerm(Term):
    """A term whose op is a function call inside the forward of the module that it belongs to."""

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        super().__init__(site, config, keep_relaxed=keep_relaxed, like=like)
        self._watching: list[_Watch | None] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The forward pre-hook: start watching."""
        watch = _Watch(self, module) if self.active else None
        self._watching.append(watch)
        if watch is not None:
            watch.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook, called after an error too: stop watching."""
        if self._watching and (watch := self._watching.pop()) is not None:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]


class _Watch(TorchFunctionMode):
    """Adds the term to contractions of data with the term's parameters, or with what is computed from them alone."""

    def __init__(self, term: InterceptingTerm, module: nn.Module) -> None:
        super().__init__()
        self.term = term
        # a tensor's identity is its id only while it lives
        self._weights: dict[int, Tensor] = {}
        for name in term.map.intercepts:
            self._note(functools.reduce(getattr, name.split("."), module))

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        found = contraction(func, args, kwargs, self._is_weight, lambda x: tuple(x.shape) if isinstance(x, Tensor) else ())
        if found is not None and isinstance(result, Tensor):
            return InterceptingTerm.added_to(self.term, result, found.data)
        self._follow(args, kwargs, result)
        return result

    def _is_weight(self, value: object) -> bool:
        return id(value) in self._weights

    def _note(self, value: Any) -> None:
        for tensor in pytree.tree_leaves(value):
            if isinstance(tensor, Tensor):
                self._weights[id(tensor)] = tensor

    def _follow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """What is computed from the weights alone is a weight too."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        if leaves and all(self._is_weight(leaf) for leaf in leaves):
            self._note(result)
