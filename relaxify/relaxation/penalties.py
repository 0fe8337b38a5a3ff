"""The two regularisers of CR eq. 5, |W x| and sum_A |L_A(W) x|, per layer, from the sketches.

They are functions of W and of detached inputs alone, normalised by rows and summed over layers: independent of batch size,
point count and of the forward pass's graph.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.interrupts import completed
from relaxify.intertwiners import lie_derivative
from relaxify.relaxation.distributed import averaged, replicas_of
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.representations import Representation


@dataclass(frozen=True)
class LayerPenalty:
    """One layer's regularisers, unweighted: `norm` is |W x|, `lie[a]` is |L_A(W) x| for the group's generator a.

    With `reduction="projection"`, `lie` has one entry, |W - P_H W|.

    `excess` takes the place of `norm` where the layer's config has a share: with e = |W x| / (share |f_e(x)|) - 1, it is e^2
    for e in [0, 1], 0 below, and 2 e - 1 above, so that its gradient is bounded.
    """

    norm: Float[Tensor, ""]
    lie: Float[Tensor, " actions"]
    weight: float
    excess: Float[Tensor, ""] | None = None

    @property
    def total(self) -> Float[Tensor, ""]:
        """lambda_reg * (|W x| + sum_A |L_A(W) x|), or `excess` and the sum."""
        if self.excess is not None:
            return self.excess + self.weight * self.lie.sum()
        return self.weight * (self.norm + self.lie.sum())


def penalty(model: nn.Module, *, relative_to: Tensor | None = None) -> Float[Tensor, ""]:
    """The sum over layers of excess + lambda_reg * sum_A |L_A(W) x|, to be added to the loss.

    `excess` holds |theta W x| / |f_e(x)| to the layer's `RelaxConfig.share`, 0.05 by default: see `LayerPenalty`. With
    `share=None` it is lambda_reg |W x| instead, and the whole the penalty of CR eq. 5.
    Expectations run over the rows seen in training forward passes since the last call (so micro-batches accumulate).
    lambda_reg is each layer's `RelaxConfig.weight`; the sum depends neither on batch size nor on the number of points.
    Returns a 0-d tensor with gradients for the Ws alone, finite, and zero, at W = 0. Terms that have ended count zero, and
    cost nothing.

    `relative_to`: times the size of this loss, of which no gradient is taken. lambda_reg = 0.01 then means the same for a
    loss of 2 and of 0.001, and so does the share; without it, the penalty holds W at nearly nothing where the loss is small,
    and lets it go where that is large.

    RuntimeError if the model is not relaxed or no layer saw a training batch; ValueError if `relative_to` is no single
    number.

    >>> from relaxify import RelaxConfig, relaxify
    >>> layer = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    >>> model = relaxify(layer, "C(4)", config=RelaxConfig(weight=0.1, theta=1.0))
    >>> loss = model(torch.randn(8, 1, 6, 6)).square().mean()
    >>> by_layer = penalties(model)
    >>> total = penalty(model, relative_to=loss)
    >>> torch.allclose(total, loss * sum(layer.total for layer in by_layer.values()))
    True
    >>> (loss + total).backward()
    """
    terms = list(_seen_terms(model).values())
    acting = [term for term in terms if not term.finished]
    replicas = replicas_of(model)
    layers = layer_penalties(acting, replicas) if acting else []
    if layers:
        total = torch.stack([layer.total for layer in layers]).sum()
        total = total if relative_to is None else _scale(relative_to, replicas).to(total.device) * total
    else:
        # of a number of its own, so that it can be added to and gone backward from as before
        total = torch.zeros_like(terms[0].theta, requires_grad=True)
    # at last, so that whatever is raised before leaves the rows to the next call
    completed(lambda: _read(terms))
    return total


def _read(terms: Sequence[Term]) -> None:
    for term in terms:
        term.sketch.read()


def _scale(loss: Tensor, replicas: dist.ProcessGroup | None) -> Float[Tensor, ""]:
    """|loss|, the mean of all processes', without gradient."""
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"penalty(relative_to=...) is a {type(loss).__name__}: pass the loss itself, a tensor with a single number."
        )
    if loss.numel() != 1:
        raise ValueError(
            f"penalty(relative_to=...) has the shape {tuple(loss.shape)}: pass the loss itself, a single number."
        )
    scale = loss.detach().reshape(()).clone()
    if replicas is not None:
        dist.all_reduce(scale, group=replicas)
        scale = scale / dist.get_world_size(replicas)
    return scale.abs()


def penalties(model: nn.Module) -> dict[str, LayerPenalty]:
    """The same layer by layer, by path, without marking the sketches as read. Layers that saw no input count zero.

    RuntimeError as for `penalty`.
    """
    terms = _seen_terms(model)
    return dict(zip(terms, layer_penalties(list(terms.values()), replicas_of(model)), strict=True))


def _seen_terms(model: nn.Module) -> dict[str, Term]:
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms to penalise; call relaxify(model, group) first.")
    waiting = [term for term in terms.values() if _needs_rows(term) and not term.finished]
    if waiting and all(term.sketch.is_empty for term in waiting):
        raise RuntimeError(
            "no relaxed layer has seen a training batch, so there is nothing to penalise; "
            "call penalty(model) after a forward pass in train() mode with gradients on, and not within torch.func's "
            "transforms of the whole model."
        )
    return terms


def _needs_rows(term: Term) -> bool:
    return term.config.reduction not in ("weights", "projection")


def layer_penalties(terms: Sequence[Term], replicas: dist.ProcessGroup | None = None) -> list[LayerPenalty]:
    """Both regularisers of each term on its sketch, over the rows of all `replicas` if there are any.

    In full precision whatever autocast does, for L_A(W) is a difference. Small layers of one shape are computed together:
    their cost is that of starting operations, not of computing them.
    """
    batches: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, term in enumerate(terms):
        batches[_alike(term)].append(index)
    means: dict[int, Tensor] = {}
    with torch.autocast(terms[0].theta.device.type, enabled=False):
        for members in batches.values():
            means.update(zip(members, _means([terms[index] for index in members]).unbind(), strict=True))
        outputs = {k: _output_square(term)[None] for k, term in enumerate(terms) if _has_share(term)}
        if replicas is not None:
            # what depends on the weights alone is the same in every process
            counts = {k: term.sketch.count for k, term in enumerate(terms) if _needs_rows(term)}
            means |= averaged({k: means[k] for k in counts}, counts, replicas) if counts else {}
            outputs = averaged(outputs, {k: counts[k] for k in outputs}, replicas) if outputs else {}
        sizes = [means[k] if term.config.reduction == "norm" else _root(means[k]) for k, term in enumerate(terms)]
        excesses = _excesses({k: (terms[k].config.share, sizes[k][0], outputs[k][0]) for k in outputs})
    return [
        LayerPenalty(size[0], size[1:], float(term.config.weight), excesses.get(k))
        for k, (term, size) in enumerate(zip(terms, sizes, strict=True))
    ]


def _excesses(layers: Mapping[int, tuple[float | None, Tensor, Tensor]]) -> dict[int, Float[Tensor, ""]]:
    """`LayerPenalty.excess` of each layer's share, |W x| and |f_e(x)|^2: all at once."""
    if not layers:
        return {}
    bounds, norms, squares = zip(*layers.values(), strict=True)
    norm, square = torch.stack(norms), torch.stack(squares)
    # a layer whose output is zero, or that saw no input, has no share
    share = norm * torch.where(square > 0, square, math.inf).rsqrt()
    over = (share / share.new_tensor(bounds) - 1).clamp(min=0)
    # a square alone is so steep beside a small share that plain gradient descent would diverge
    excess = torch.where(over < 1, over.square(), 2 * over - 1)
    return dict(zip(layers, excess.unbind(), strict=True))


def _has_share(term: Term) -> bool:
    return term.config.share is not None and _needs_rows(term)


@torch.no_grad()
def _output_square(term: Term) -> Float[Tensor, ""]:
    """E|f_e(x)|^2, or 0 before training."""
    square = term.output_square()
    return term.theta.new_zeros(()) if square is None else square


# from here on, copying weights side by side costs more than it saves
_SMALL = 2**16


def _alike(term: Term) -> Hashable:
    """Equal for terms that are computed together."""
    rows = term.sketch.rows
    if rows is None or term.size > _SMALL or not _needs_rows(term):
        return id(term)
    return (
        term.structure,
        term.config.reduction,
        term.config.rank,
        tuple(rows.shape),
        term.sketch.is_sample,
        rows.dtype,
        term.theta.dtype,
    )


def _means(terms: Sequence[Term]) -> Float[Tensor, "terms sizes"]:
    """For |W x| and each |L_A(W) x| the mean over rows, of its square unless for `norm`, for terms that are alike."""
    first = terms[0]
    rep_in, rep_out = first.map.rep_in, first.map.rep_out
    # in half precision the differences would drown
    dtype = torch.promote_types(first.theta.dtype, torch.float32)
    if first.config.reduction == "projection":
        weight = first.matrix.to(dtype)
        return torch.stack([weight.square().sum(), _distance_square(first, weight)])[None]
    if not _needs_rows(first):
        weight = first.matrix.to(dtype)
        return torch.cat([weight[None], lie_derivative(weight, rep_in, rep_out)]).square().sum((1, 2))[None]
    if first.sketch.keeps_moment and (moment := first.sketch.moment) is not None:
        weight = first.matrix.to(dtype)
        maps = torch.cat([weight[None], lie_derivative(weight, rep_in, rep_out)])
        return torch.einsum("aij,aij->a", maps @ moment.to(dtype), maps)[None]
    if first.sketch.rows is None:
        nothing = first.theta.new_zeros(1 + first.map.group.actions, dtype=dtype)
        return (sum(weight.sum() for weight in first.whole_weights) * nothing)[None]
    rows = _stacked([term.sketch.rows.to(dtype) for term in terms if term.sketch.rows is not None])
    # apply W to x and to every drho(A) x in one product; what L_A(W) subtracts, drho(A) W x, needs no other
    moved = _acted(rep_in, rows, shared=first.sketch.is_sample)
    kept, share = rows.shape[1], moved.shape[2]
    images = _images(terms, torch.cat([rows, moved.flatten(1, 2)], dim=1))
    own = images[:, :kept]
    lie = images[:, kept:].unflatten(1, (-1, share)) - _acted(rep_out, own, shared=first.sketch.is_sample)
    squares = own.square().sum(-1), lie.square().sum(-1)
    sizes = squares if first.config.reduction == "rms" else [_root(square) for square in squares]
    return torch.cat([sizes[0].mean(1, keepdim=True), sizes[1].mean(2)], dim=1)


def _distance_square(term: Term, weight: Float[Tensor, "n_out n_in"]) -> Float[Tensor, ""]:
    """|W - P_H W|^2, with its gradient 2 (W - P_H W): P_H is an orthogonal projection, so it needs none of its own."""
    rest = weight.detach() - term.equivariant_part().to(weight)
    return 2 * (rest * weight).sum() - rest.square().sum()


def _acted(
    rep: Representation, rows: Float[Tensor, "terms rows n"], *, shared: bool
) -> Float[Tensor, "terms actions some_rows n"]:
    """Each generator's action on every row, or on its share of the rows: what is a sample may be divided."""
    count = rep.group.actions
    share = rows.shape[1] // count if shared and count else 0
    if not share:
        return rep.act(rows).transpose(0, 1)
    return rep.act(rows[:, : count * share].unflatten(1, (count, share)).transpose(0, 1), each=True).transpose(0, 1)


def _images(terms: Sequence[Term], rows: Float[Tensor, "terms rows n_in"]) -> Float[Tensor, "terms rows n_out"]:
    """W x of each term, through the factors of low-rank ones."""
    for factor in zip(*(reversed(term.whole_weights) for term in terms), strict=True):
        rows = rows @ _stacked([weight.to(rows.dtype) for weight in factor]).mT
    return rows


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _root(squares: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sqrt with gradient 0, not infinity, at 0: relaxations start at W = 0."""
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive
