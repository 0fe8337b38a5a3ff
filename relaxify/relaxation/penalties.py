"""The two regularisers of CR eq. 5, |W x| and sum_A |L_A(W) x|, per layer, from the sketches.

They are functions of W and of detached inputs alone, normalised by rows and summed over layers: independent of batch size,
point count and of the forward pass's graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.relaxation.term import Term, terms_of
from relaxify.representations import lie_derivative


@dataclass(frozen=True)
class LayerPenalty:
    """One layer's regularisers, unweighted: `norm` is |W x|, `lie[a]` is |L_A(W) x| for the group's generator a."""

    norm: Float[Tensor, ""]
    lie: Float[Tensor, " actions"]
    weight: float

    @property
    def total(self) -> Float[Tensor, ""]:
        """lambda_reg * (|W x| + sum_A |L_A(W) x|)."""
        return self.weight * (self.norm + self.lie.sum())


def penalty(model: nn.Module) -> Float[Tensor, ""]:
    """lambda_reg * sum over layers of (|W x| + sum_A |L_A(W) x|), the penalty of CR eq. 5, to be added to the loss.

    Expectations run over the rows seen in training forward passes since the last call (so micro-batches accumulate).
    Gradients are finite, and zero, at W = 0. RuntimeError if the model is not relaxed or no layer saw a training batch.

        loss = criterion(model(x), y) + penalty(model)
    """
    layers = penalties(model)
    for term in terms_of(model).values():
        term.sketch.read()
    return torch.stack([layer.total for layer in layers.values()]).sum()


def penalties(model: nn.Module) -> dict[str, LayerPenalty]:
    """The same layer by layer, by path, without marking the sketches as read. Layers that saw no input count zero."""
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms to penalise; call relaxify(model, group) first.")
    if not any(term.sketch.seen for term in terms.values()):
        raise RuntimeError(
            "no relaxed layer has seen a training batch, so there is nothing to penalise; "
            "call penalty(model) after a forward pass in train() mode with gradients on."
        )
    return {path: layer_penalty(term) for path, term in terms.items()}


def layer_penalty(term: Term) -> LayerPenalty:
    """Both regularisers of one term on its sketch, in full precision whatever autocast does: L_A(W) is a difference."""
    with torch.autocast(term.theta.device.type, enabled=False):
        sizes = _sizes(term)
    return LayerPenalty(sizes[0], sizes[1:], term.config.weight)


def _sizes(term: Term) -> Float[Tensor, " sizes"]:
    rep_in, rep_out, dtype = term.map.rep_in, term.map.rep_out, term.theta.dtype
    if term.sketch.keeps_moment and (moment := term.sketch.moment) is not None:
        maps = torch.cat([term.matrix[None], lie_derivative(term.matrix, rep_in, rep_out)])
        return _root(torch.einsum("aij,aij->a", maps @ moment.to(dtype), maps))
    if (rows := term.sketch.rows) is None:
        return term.matrix.sum() * term.theta.new_zeros(1 + term.map.group.actions)
    rows = rows.to(dtype)
    with torch.no_grad():
        moved = torch.cat([rows[None], rep_in.act(rows)])
    images = term(moved)
    squares = torch.cat([images[:1], images[1:] - rep_out.act(images[0])]).square().sum(-1)
    return _root(squares.mean(-1)) if term.config.reduction == "rms" else _root(squares).mean(-1)


def _root(squares: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sqrt with gradient 0, not infinity, at 0: relaxations start at W = 0."""
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive
