"""A network beside whose layers the terms of CR eq. 4 stand as functions of tensors alone, so that `vmap` can go over it.

relaxify's own terms keep a sketch of their inputs from step to step. Here the penalty of a step is a function of the step:
the same rows, drawn by the same hash, and the same sums as in `relaxify.penalty`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from relaxify import RelaxConfig, plan
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.sketch import hashed_integers
from relaxify.relaxation.terms.merged import MergedTerm
from relaxify.representations import Representation


class Found(NamedTuple):
    """Of each site its penalty, its term's share of its output, E|f_e(x)|^2, and if asked for its inputs' second moment."""

    penalty: Float[Tensor, " sites"]
    share: Float[Tensor, " sites"]
    square: Float[Tensor, " sites"]
    moments: list[Float[Tensor, "n_in n_in"]]


class _OfSite(NamedTuple):
    penalty: Float[Tensor, ""]
    share: Float[Tensor, ""]
    square: Float[Tensor, ""]
    moment: Float[Tensor, "n_in n_in"] | None


class ParallelTerms(nn.Module):
    """`model` with theta W x beside its sites.

    `forward(weights, theta, nearest, step, *inputs)` takes one W and one theta a site, and for the penalty by projection
    P_H W; it gives the prediction, and what was found.
    """

    def __init__(
        self, model: nn.Module, group: str, include: Sequence[Pattern], config: RelaxConfig, *, moments: bool = False
    ) -> None:
        super().__init__()
        self.model, self.config, self.moments = model, config, moments
        # in the order in which `terms_of` lists terms, that of the modules, which need not be that of their calls
        order = [name for name, _ in model.named_modules()]
        self.sites = sorted(plan(model, group, include=include).sites, key=lambda site: order.index(site.path))
        if convolved := [site.path for site in self.sites if site.map.convolution is not None]:
            raise ValueError(f"{', '.join(convolved)} convolve, and have no terms here; train such a system one by one.")
        self._now: tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Int[Tensor, ""]] | None = None
        self._found: dict[int, _OfSite] = {}
        like = next(model.parameters())
        self.generators = [(dense(site.map.rep_in, like), dense(site.map.rep_out, like)) for site in self.sites]
        # a layer whose matrix is known is measured on the rows of the sketch, any other on all that it puts out
        self.is_known = [MergedTerm.takes(site, config) for site in self.sites]
        for index, site in enumerate(self.sites):
            site.module.register_forward_hook(partial(self._relax, index))

    def forward(
        self,
        weights: Sequence[Tensor],
        theta: Float[Tensor, " sites"],
        nearest: Sequence[Tensor],
        step: Int[Tensor, ""],
        *inputs: Tensor,
    ) -> tuple[Tensor, Found]:
        self._now, self._found = (weights, theta, nearest, step), {}
        try:
            output = self.model(*inputs)
        finally:
            self._now = None
        found = [self._found[index] for index in range(len(self.sites))]
        moments = [each.moment for each in found if each.moment is not None]
        penalty, share, square = (torch.stack(parts) for parts in zip(*(each[:3] for each in found), strict=True))
        return output, Found(penalty, theta.detach() * share, square, moments)

    def _relax(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._now is None:
            return output
        weights, theta, nearest, step = self._now
        site, weight = self.sites[index], weights[index]
        x = site.map.features_in.rows(args[0])
        near = nearest[index] if len(nearest) else None
        own = site.map.features_out.rows(output).detach()
        self._found[index] = self._regularised(index, weight, near, x.detach(), own, step)
        return output + site.map.features_out.restore(F.linear(x, theta[index] * weight), like=output)

    def _regularised(
        self, index: int, weight: Tensor, nearest: Tensor | None, x: Tensor, output: Tensor, step: Int[Tensor, ""]
    ) -> _OfSite:
        x, output = x.flatten(0, -2), output.flatten(0, -2)
        kept, is_sample = self.config.rows, False
        if kept is not None and len(x) > kept:
            rows, is_sample = hashed_integers(step, kept, len(x), x.device), True
            x, output = x[rows], output[rows] if self.is_known[index] else output
        norm, size = root(F.linear(x, weight).square().sum(-1).mean()), output.square().sum(-1).mean()
        share = norm.detach() * torch.where(size > 0, size, torch.inf).rsqrt()
        moment = x.mT @ x / len(x) if self.moments else None
        if nearest is not None:
            return _OfSite(self.config.weight * to_intertwiners(weight, nearest), share, size, moment)
        before, after = self.generators[index]
        lie = shared(x, len(before), is_sample) @ (weight @ before - after @ weight).mT
        first = self.config.weight * norm if self.config.share is None else excess(norm, size, self.config.share)
        penalty = first + self.config.weight * root(lie.square().sum(-1).mean(1)).sum()
        return _OfSite(penalty, share, size, moment)


def to_intertwiners(weight: Float[Tensor, "n_out n_in"], nearest: Float[Tensor, "n_out n_in"]) -> Float[Tensor, ""]:
    """|W| + |W - P_H W|, where the gradient of |W - P_H W|^2 is twice W - P_H W."""
    rest = weight.detach() - nearest
    return root(weight.square().sum()) + root(2 * (rest * weight).sum() - rest.square().sum())


def dense(rep: Representation, like: Tensor) -> Float[Tensor, "actions n n"]:
    """Each generator's matrix."""
    return rep.act(torch.eye(rep.dim, dtype=torch.float64)).mT.to(like)


def shared(rows: Float[Tensor, "rows n"], count: int, is_sample: bool) -> Float[Tensor, "shares some_rows n"]:
    """For each of so many generators its own share of a sample; all rows if they are no sample."""
    share = len(rows) // count if is_sample else 0
    return rows[: count * share].unflatten(0, (count, share)) if share else rows[None]


def excess(norm: Float[Tensor, ""], square: Float[Tensor, ""], bound: float) -> Float[Tensor, ""]:
    """e^2 of e = share / bound - 1 above 0, and linear from 1 on."""
    over = (norm * torch.where(square > 0, square, torch.inf).rsqrt() / bound - 1).clamp(min=0)
    return torch.where(over < 1, over.square(), 2 * over - 1)


def root(squares: Tensor) -> Tensor:
    """sqrt, with gradient 0 at 0."""
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive
