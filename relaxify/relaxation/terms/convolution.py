"""Terms of convolutions: y = conv(x, K_e + theta * K), one convolution, with an unconstrained kernel K.

The term stands in for the forward of its layer, in training as in evaluation, so that what the layer keeps of its
parameters in eval mode is always its equivariant kernel alone. The sketch samples patches and never unfolds an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution
from relaxify.modules.hanging import StandIn
from relaxify.modules.sharding import whole_layer
from relaxify.record import Record
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.counted_passes import is_counted
from relaxify.relaxation.distributed import with_zero_gradients
from relaxify.relaxation.terms.folded import Update
from relaxify.relaxation.terms.nearest_kernel import nearest_parameter
from relaxify.relaxation.terms.stand_in import StandInTerm
from relaxify.sites import Site

SYMMETRISED = "its kernel is symmetrised, and what of the term is symmetric the model itself folds, not its checkpoint"
CODE_NEEDED = "its weights are coefficients of kernels that its library knows; fold the model itself, not its checkpoint"


class ConvolutionTerm(StandInTerm):
    """theta * K in the kernel of a convolution, or in the matrix of a linear layer on an adapter's own kind of tensor.

    W, of shape (channels_out, a group's channels_in * taps), is K flattened. It starts at zero; or, if the equivariant part
    is the symmetrised kernel of an ordinary convolution, at the rest of that kernel, so that theta = 1 changes nothing.
    """

    def __init__(self, site: Site, config: RelaxConfig, *, keep_relaxed: bool, like: Tensor) -> None:
        if site.aliases:
            others = ", ".join(repr(path) for path, _ in site.aliases)
            raise ValueError(f"{site.path!r} shares its weights with {others}: give each its own, or exclude them.")
        super().__init__(site, config, keep_relaxed=keep_relaxed, like=like)
        self._cached_at: tuple[int, ...] | None = None
        self._take_rest()

    @classmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        return site.map.convolution is not None and not site.map.intercepts

    @property
    def convolution(self) -> Convolution:
        assert self.map.convolution is not None
        return self.map.convolution

    @property
    def whole_weights(self) -> tuple[Tensor, ...]:
        """W, or its factors, acting on patches of all channels."""
        return super().whole_weights if self.convolution.groups == 1 else (self.convolution.blocks(self._matrix()),)

    def compute(self, forward: StandIn, input: Any) -> Any:  # noqa: A002 (as layers call it)
        if self.active and self._is_over:
            unused = with_zero_gradients(torch.zeros_like(self.theta), *self.parameters())
            return self.convolution.forward(self.layer, input, unused)
        if self.active:
            if self.training and is_counted():
                self._observe(self.convolution.patches(self.convolution.kernel.tensor(input)), None, (), {})
            return self.convolution.forward(self.layer, input, self.factor * self._kernel())
        self._renew()
        if self.convolution.kernel.symmetriser is None:
            return forward.own(input)
        return self.convolution.forward(self.layer, input)

    def _kernel(self) -> Float[Tensor, "..."]:
        matrix = self.weight if self.config.rank is None else self.up @ self.down
        return self.convolution.as_kernel(matrix)

    def train(self, mode: bool = True) -> ConvolutionTerm:
        """Called by the layer's own `train`, after it has made or dropped its cache: which is kept without gradients."""
        super().train(mode)
        self._cached_at = None
        if not mode and not self.layer.training:
            self._renew()
        return self

    def _renew(self) -> None:
        """Make the layer's cache anew if its parameters have changed since it was made."""
        if self.layer.training or not self.convolution.kernel.cached() or torch.compiler.is_compiling():
            return
        now = tuple(parameter._version for parameter in self.layer.parameters(recurse=False))
        if now != self._cached_at:
            self.convolution.kernel.refresh(self.layer)
            self._cached_at = now

    def settle(self, layer: nn.Module) -> None:
        self.convolution.kernel.symmetrise(layer)
        self.convolution.kernel.refresh(layer)

    @property
    def settled_parameters(self) -> tuple[str, ...]:
        kernel = self.convolution.kernel
        return () if kernel.symmetriser is None else (kernel.parameter,)

    @torch.no_grad()
    def _take_rest(self) -> None:
        """W = the layer's own kernel without its symmetric part."""
        rest = self.convolution.kernel.rest(self.layer)
        if rest is not None and self.config.rank is None:
            self.weight.copy_(self.convolution.as_matrix(rest))

    def record(self) -> Record:
        basis = self.convolution.kernel.symmetriser
        rows = () if basis is None else tuple(map(tuple, basis.tolist()))
        return replace(super().record(), groups=self.convolution.groups, symmetriser=rows)

    def output_square(self) -> Float[Tensor, ""] | None:
        """E|f_e(x)|^2 = tr(K_e C K_e^T)."""
        if self.sketch.is_empty:
            return None
        kernel = self.convolution.as_matrix(self.convolution.kernel.expand(whole_layer(self.layer))[0])
        return self.sketch.mean_square(self.convolution.blocks(kernel))

    def record_paths(self) -> tuple[tuple[()], str]:
        return (), CODE_NEEDED if self.convolution.kernel.symmetriser is None else SYMMETRISED

    def why_not_foldable(self) -> None:
        """The layer's own basis of kernels takes what it spans."""

    @torch.no_grad()
    def equivariant_part(self) -> Float[Tensor, "n_out n_in"]:
        """The nearest to W among the kernels that the layer itself can have."""
        return self.convolution.blocks(self._nearest(self._matrix())[1])

    def _nearest(
        self, matrix: Float[Tensor, "c_out group_in"], moment: Float[Tensor, "n n"] | None = None
    ) -> tuple[Float[Tensor, "_"], Float[Tensor, "c_out group_in"]]:
        return nearest_parameter(self._whole_layer(), self.map, matrix, moment)

    def _matrix(self) -> Float[Tensor, "c_out group_in"]:
        weights = super().whole_weights
        return weights[0] if len(weights) == 1 else weights[0] @ weights[1]

    def equivariant_relaxation(self) -> Float[Tensor, "n_out n_in"]:
        return self.theta.double().cpu() * self.equivariant_part()

    def folded(self) -> Float[Tensor, "n_out n_in"]:
        """All of the equivariant part: the layer's own basis of kernels takes it."""
        return self.equivariant_relaxation()

    def unexpressed(self, equivariant: Tensor | None = None) -> float:
        """Nothing: what counts as equivariant is what the layer's own kernels span."""
        return 0.0

    @torch.no_grad()
    def updates(self, moment: Float[Tensor, "n n"] | None = None) -> list[Update]:
        relaxation = self.theta.double() * self._matrix().double()
        self._check_finite(relaxation)
        return [(self.convolution.kernel.parameter, 0, self._nearest(relaxation, moment)[0])]

    @torch.no_grad()
    def foldable_weight(self) -> Float[Tensor, "c_out group_in"]:
        return self._nearest(self._matrix())[1]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint of the other mode lacks the layer's cache, or has one too many: it is made of the rest."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        _, _, missing_keys, unexpected_keys, _ = args
        owner = prefix.removesuffix(".").rpartition(".")[0]
        cached = {f"{owner}.{name}".removeprefix(".") for name in self.convolution.kernel.cached()}
        for keys in (missing_keys, unexpected_keys):
            keys[:] = [key for key in keys if key not in cached]
        if not any(key.startswith(prefix) for key in state_dict):
            self._take_rest()
        self._cached_at = None
        self._renew()
