"""Terms that are computed together with the op that they relax, in one product: y = (W_e + theta * W) x, with W_e dense.

A layer with few channels per irrep is a series of small products, each over an input in its own layout; as one dense matrix
it adds little to what the term costs anyway. In one product the layer is free, and no sum of two outputs is formed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.intertwiners import add_paths
from relaxify.modules.hanging import StandIn
from relaxify.modules.sharding import whole_layer
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.counted_passes import is_counted
from relaxify.relaxation.terms.stand_in import StandInTerm
from relaxify.relaxation.terms.term import argument_of
from relaxify.sites import Site

# assembling the matrix of more paths takes more steps than one product saves
MOST_PATHS = 8
# rows per feature: with fewer, assembling the layer's matrix costs more than its own products
FEW_ROWS = 1 / 4


class MergedTerm(StandInTerm):
    """A term of a layer that is linear, and wholly known by its paths."""

    @classmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        """If the site's paths are all that its module computes, and the term is dense: factors of low rank cost less."""
        map_, module = site.map, site.module
        blocks = (*map_.rep_in.blocks, *map_.rep_out.blocks)
        is_plain = type(module) is nn.Linear and module.bias is None and not map_.intercepts
        return (
            (map_.is_complete or is_plain)
            and config.rank is None
            and 0 < len(map_.paths) <= MOST_PATHS
            and not site.aliases
            and "forward" not in vars(module)
            # hooks that were there first see what the layer itself computes
            and not module._forward_hooks
            and len({block.layout for block in blocks}) == 1
            and (map_.features_in.axes == (-1,) or len(blocks) == 2)
        )

    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return forward.own(*args, **kwargs)
        x = argument_of(args, kwargs, 0, self.map.argument)
        # with further arguments, such as weights from outside, the layer may compute something else; a trace is of one way,
        # whatever the sizes and values
        if self.observer is not None or len(args) + len(kwargs) > 1 or self._has_few_rows(x) or self._adds_nothing():
            return self.added_to(forward.own(*args, **kwargs), x)
        rows = self.map.features_in.rows(x)
        if self.training and is_counted():
            self._observe(rows, None, (), {})
        matrix = self._with_layer(self.factor * self.dense, self.layer)
        return self.map.features_out.restore(F.linear(rows, matrix), like=self._like_output(x))

    def _has_few_rows(self, x: Tensor) -> bool:
        n_in = self.map.rep_in.dim
        return x.numel() // n_in < FEW_ROWS * n_in

    def _adds_nothing(self) -> bool:
        """Whether theta or W is zero, where asking does not wait: one product would not round as the layer does."""
        if self._is_over:
            return True
        if torch.compiler.is_compiling() or type(self.theta) is not Tensor or self.theta.device.type != "cpu":
            return False
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return False
        return not ((bool(self.theta) or self.nudge is not None) and bool(self.weight.any()))

    def _with_layer(self, matrix: Float[Tensor, "n_out n_in"], layer: nn.Module) -> Float[Tensor, "n_out n_in"]:
        """A layer's own matrix W_e added to another, in place."""
        blocks_in, blocks_out = self.map.rep_in.blocks, self.map.rep_out.blocks
        weights = []
        for path in self.map.paths:
            size = blocks_in[path.block_in].multiplicity * blocks_out[path.block_out].multiplicity
            weights.append(getattr(layer, path.parameter).reshape(-1)[path.offset : path.offset + size])
        return add_paths(matrix, blocks_in, blocks_out, self.map.paths, weights)

    def output_square(self) -> Float[Tensor, ""] | None:
        """E|f_e(x)|^2 = tr(W_e C W_e^T)."""
        if self.sketch.is_empty:
            return None
        own = self._with_layer(torch.zeros_like(self.matrix), whole_layer(self.layer))
        return self.sketch.mean_square(own)

    def _like_output(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Something of the output's shape: the input's, with the output's channels last if components are an axis."""
        channels = self.map.rep_out.blocks[0].multiplicity
        return x if len(self.map.features_out.axes) == 1 else x[..., :1].expand(*x.shape[:-1], channels)
