"""Terms of functional ops: an einsum or matmul with a Parameter in somebody's forward, which no module hook can reach.

While the module that owns the Parameter runs its forward, a function mode watches for the op and adds theta * W x to what it
returns. The module stays the very object it was, with its class, attributes and methods.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relaxify.graph.assembling import ASSEMBLING, BLANKS, writes
from relaxify.graph.complex_values import as_real, contraction_of_parts
from relaxify.graph.contractions import FACTORIES, Contraction, contraction, function_name
from relaxify.graph.merged_axes import is_reshape, unmerged
from relaxify.graph.storages import expanded_axes
from relaxify.interrupts import under
from relaxify.modules.hanging import StandIn
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.terms.stand_in import StandInTerm
from relaxify.sites import Site


class InterceptingTerm(StandInTerm):
    """A term whose op is a function call inside the forward of the module that it belongs to."""

    @classmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        return bool(site.map.intercepts) and site.map.convolution is None

    @property
    def operand(self) -> str:
        return self.map.intercepts[0]

    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        """Watched within this call alone, so that whatever is raised in it, a Ctrl-C too, leaves nothing watching."""
        if not self.active:
            return forward.own(*args, **kwargs)
        return under(Watch(self, forward.module, (args, kwargs)), forward.own, *args, **kwargs)


class Watch(TorchFunctionMode):
    """Adds the term to contractions of data with the term's parameters, or with what is computed from them alone."""

    def __init__(self, term: InterceptingTerm, module: nn.Module, given: Any) -> None:
        super().__init__()
        self.term = term
        # what is computed from the module's inputs, if what it does not hold may be a constant
        self._moving: dict[int, Tensor] = {}
        self._note(given, self._moving)
        # a tensor's identity is its id only while it lives
        self._fixed: dict[int, Tensor] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        self._weights: dict[int, Tensor] = {}
        self._blank: dict[int, Tensor] = {}
        self._reshaped: dict[int, tuple[Tensor, Tensor]] = {}
        for name in term.map.intercepts:
            self._note(functools.reduce(getattr, name.split("."), module), self._weights)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        found = contraction(func, args, kwargs, self._is_weight, self._shape, self._is_fixed)
        if found is not None and isinstance(result, Tensor):
            result = self._with_term(result, found)
            self._note(result, self._moving)
            return result
        self._follow(func, args, kwargs, result)
        return result

    def _with_term(self, result: Tensor, found: Contraction) -> Tensor:
        """The result and the term, of the data as they were before views merged axes that the map is about."""
        data, whole = found.data, found.data
        while not self._has_features(whole) and id(whole) in self._reshaped:
            _, whole = self._reshaped[id(whole)]
        shapes = [tuple(as_real(each).shape) for each in (data, whole, result)]
        before = unmerged(contraction_of_parts(found) if data.is_complex() else found, *shapes)
        if before is None:
            return InterceptingTerm.added_to(self.term, result, data)
        own = slice(-1) if data.is_complex() else slice(None)
        rows, out = data.reshape(before.data[own]), result.reshape(before.result[own])
        return InterceptingTerm.added_to(self.term, out, rows).reshape_as(result)

    def _has_features(self, x: Tensor) -> bool:
        features, rep = self.term.map.features_in, self.term.map.rep_in
        shape = as_real(x).shape
        return len(shape) >= len(features.axes) and features.size(shape) == rep.dim

    def _shape(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, Tensor):
            return ()
        # a weight that was expanded is the same for each entry of that axis
        expanded = expanded_axes(value) if self._is_weight(value) else ()
        return tuple(1 if axis in expanded else size for axis, size in enumerate(value.shape))

    def _is_weight(self, value: object) -> bool:
        return id(value) in self._weights

    def _is_fixed(self, value: object) -> bool:
        return id(value) in self._fixed or id(value) in self._weights or self._is_constant(value)

    def _is_constant(self, value: object) -> bool:
        """Whether nothing that was seen made a tensor, and it is not learned; only where the weight is made of such."""
        if not self.term.map.has_constants or not isinstance(value, Tensor):
            return False
        return id(value) not in self._moving and not value.requires_grad

    def _note(self, value: Any, known: dict[int, Tensor]) -> None:
        for tensor in pytree.tree_leaves(value):
            if isinstance(tensor, Tensor):
                known[id(tensor)] = tensor

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """What is computed from the weights, and from buffers and constants besides, is a weight too."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        name = function_name(func)
        known = self._made(name, leaves)
        written = self._forgotten(leaves[0]) if leaves and writes(name) else []
        if known is not None:
            self._note([result, *written], known)
        elif is_reshape(func) and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            self._reshaped[id(result)] = result, args[0]
            self._note(result, self._moving)
        elif self.term.map.has_constants:
            self._note(result, self._moving)

    def _made(self, name: str, leaves: list[Tensor]) -> dict[int, Tensor] | None:
        """Where what a function makes of these tensors belongs: as in `relaxify.graph.assembling`."""
        if name in BLANKS:
            return self._blank
        blank = [leaf for leaf in leaves if id(leaf) in self._blank]
        if not all(self._is_fixed(leaf) or id(leaf) in self._blank for leaf in leaves):
            return None
        if not leaves and not (self.term.map.has_constants or name in FACTORIES):
            return None
        if not any(map(self._is_weight, leaves)):
            return self._blank if blank else self._fixed
        return self._weights if not blank or name in ASSEMBLING else None

    def _forgotten(self, written: Tensor) -> list[Tensor]:
        """What was followed and has its entries where this tensor has, to be followed no more."""
        followed = self._fixed, self._weights, self._blank
        shares = torch._C._is_alias_of  # type: ignore[attr-defined]
        sharing = [other for known in followed for other in known.values() if shares(written, other)]
        for known, other in itertools.product(followed, sharing):
            known.pop(id(other), None)
        return sharing
