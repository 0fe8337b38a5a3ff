"""Terms that are computed together with the op that they relax, in one product: y = (I (x) W_e + theta * W) x.

An nn.Linear on the channels of vectors costs a third of what a dense term beside it does, and each wants its input laid out
in its own way. In one product the layer costs nothing, the input is laid out once, and no sum of two outputs is formed.
No hook can keep a layer from computing what it computes, so such a term stands in for the forward of its one layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.passes import is_counted
from relaxify.relaxation.term import Term
from relaxify.sites import Path, Site


class MergedTerm(Term):
    """A term of an nn.Linear that mixes channels of vectors, whose components vary slowest."""

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        super().__init__(site, config, keep_relaxed=keep_relaxed, like=like)
        # in a list, or it would be a child of its own child
        self._layers = [site.module]

    @property
    def layer(self) -> nn.Module:
        return self._layers[0]

    def compute(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:  # noqa: A002 (as nn.Linear calls it)
        """The layer's forward."""
        if not self.active:
            return type(self.layer).forward(self.layer, input)
        if self._adds_nothing():
            return self.added_to(type(self.layer).forward(self.layer, input), input)
        rows = self.map.features_in.rows(input)
        if self.training and is_counted():
            self._observe(rows, None, (), {})
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return self.map.features_out.restore(F.linear(rows, self._merged(weight)), like=_widened(input, len(weight)))

    def _adds_nothing(self) -> bool:
        """Whether theta or W is zero, where looking does not wait: one product would round in another way than the layer."""
        if torch.compiler.is_compiling() or type(self.theta) is not Tensor or self.theta.device.type != "cpu":
            return False
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return False
        return not (bool(self.theta) and bool(self.weight.any()))

    def _merged(self, weight: Float[Tensor, "c_out c_in"]) -> Float[Tensor, "n_out n_in"]:
        """I (x) W_e + theta * W."""
        size = self.map.rep_in.blocks[0].dimension
        merged = self.theta * self.weight
        merged.unflatten(1, (size, -1)).unflatten(0, (size, -1)).diagonal(0, 0, 2).add_(weight[..., None])
        return merged

    def output_square(self) -> Float[Tensor, ""] | None:
        """E|f_e(x)|^2 = sum_i tr(W_e C_ii W_e^T), over components i."""
        moment, weight = self.sketch.moment, self.layer.weight
        if moment is None:
            return None
        assert isinstance(weight, Tensor)
        size = self.map.rep_in.blocks[0].dimension
        own = moment.unflatten(1, (size, -1)).unflatten(0, (size, -1)).diagonal(0, 0, 2).sum(-1)
        weight = weight.to(moment)
        return torch.einsum("oc,cd,od->", weight, own, weight)


def _widened(x: Float[Tensor, "... c_in"], channels: int) -> Float[Tensor, "... c_out"]:
    """Something of the output's shape."""
    return x[..., :1].expand(*x.shape[:-1], channels)


def can_merge(site: Site, config: RelaxConfig) -> bool:
    """Whether the site is a plain nn.Linear on the channels of vectors, with a dense term; factors of low rank cost less."""
    blocks = (*site.map.rep_in.blocks, *site.map.rep_out.blocks)
    return (
        type(site.module) is nn.Linear
        and site.module.bias is None
        and "forward" not in vars(site.module)
        and not site.aliases
        and config.rank is None
        and [block.layout for block in blocks] == ["component_major"] * 2
        and blocks[0].dimension == blocks[1].dimension
        and site.map.paths == (Path("weight", 0, 0, 0, order="out_in"),)
    )
