"""summary: what the terms of a relaxed model are doing, as data first and as a table second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from relaxify.figures import shares_of
from relaxify.interrupts import completed
from relaxify.relaxation.shares import relaxed_share
from relaxify.relaxation.switching import projected, relaxed
from relaxify.relaxation.terms.copied import follow
from relaxify.relaxation.terms.folded import FOLDS
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.rendered import Rendered

if TYPE_CHECKING:
    from relaxify.figures import Figure

FORMAT = "relaxify-summary/1"

Result = TypeVar("Result")


@dataclass(frozen=True)
class LayerSummary:
    """One term. `share` is |theta W x| / |f_e(x)| (rms over the last sketch), None before training.

    `equivariant` is |P_H W| / |W|, the part of W that commutes with the group, None while W = 0. `dead` says that W is
    exactly zero though the layer has been trained on with theta > 0: no gradient reaches it. `foldable` is None if the
    layer's weights can take P_H W, else the reason why not. Of a convolution P_H W is the nearest kernel that the layer
    itself can have, and `interpolation` the most that such a kernel scores in |L_A(K)| / |K|; 0 where taps move onto taps.
    `unexpressed` is |P_H W - H| / |P_H W| for the part H that the weights can take, of the features whose transformation is
    known: what `fold` drops of what is equivariant. None while W = 0, and where the weights can take nothing.
    """

    path: str
    op: str
    rep_in: str
    rep_out: str
    parameters: int
    theta: float
    norm: float
    share: float | None
    equivariant: float | None
    dead: bool
    foldable: str | None
    interpolation: float = 0.0
    unexpressed: float | None = None


@dataclass(frozen=True, repr=False)
class Summary(Rendered):
    """All terms, by path, the parameter counts, and, if `summary` was given a loss, its value with the terms and without."""

    page = "summary"

    layers: dict[str, LayerSummary]
    base_parameters: int
    added_parameters: int
    relaxed_loss: float | None = None
    projected_loss: float | None = None

    @property
    def share(self) -> float | None:
        """Mean of the layers' shares |theta W x| / |f_e(x)|, None before training."""
        shares = [layer.share for layer in self.layers.values() if layer.share is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def dead(self) -> tuple[str, ...]:
        """Paths of terms that no gradient reaches."""
        return tuple(path for path, layer in self.layers.items() if layer.dead)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data under the key `format`: "relaxify-summary/1"."""
        return {"format": FORMAT, **dataclasses.asdict(self), "share": self.share}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The terms, a row each."""
        return [dataclasses.asdict(layer) for layer in self.layers.values()]

    def plot(self) -> Figure:
        """What every term does, and how much of it commutes with the group, as a figure."""
        shares = {path: layer.share or 0.0 for path, layer in self.layers.items()}
        equivariant = {path: layer.equivariant or 0.0 for path, layer in self.layers.items()}
        return shares_of({"|theta W x| / |f(x)|": shares, "|P W| / |W|": equivariant})

    def __str__(self) -> str:
        head = f"{len(self.layers)} terms, {self.base_parameters:,} + {self.added_parameters:,} parameters"
        if self.relaxed_loss is not None:
            head += f", loss {self.relaxed_loss:.4g} relaxed, {self.projected_loss:.4g} projected"
        return "\n".join([head, *(_line(layer) for layer in self.layers.values())])


def summary(model: nn.Module, *, loss: Callable[[], Tensor] | None = None) -> Summary:
    """What each term is and does now, by path: as data, and as a table when printed.

    `loss`, such as `lambda: criterion(model(x), y)`, is called twice, in `eval()`: with the terms and without them. What
    lies between the two is what projecting would cost now. Nothing is changed by it.

    RuntimeError if the model is not relaxed.

    >>> from relaxify import relaxify
    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    >>> print(summary(relaxify(model, "SO(3)", example_inputs=torch.randn(16, 3, 4))))
    2 terms, 40 + 360 parameters
      0: 4xvector -> 8xvector, theta 0, share -
      1: 8xvector -> 1xvector, theta 0, share -
    """
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms to summarise; call relaxify(model, group) first.")
    follow(terms.values())
    added = sum(p.numel() for term in terms.values() for p in term.parameters())
    total = sum(p.numel() for p in model.parameters())
    losses = (None, None) if loss is None else relaxed_and_projected_loss(model, loss)
    return Summary({path: _layer(path, term) for path, term in terms.items()}, total - added, added, *losses)


def relaxed_and_projected_loss(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, float]:
    """A loss of the model in `eval()` with its terms and without; the model is left in the mode that it was in."""

    def both() -> tuple[float, float]:
        with relaxed(model):
            first = float(loss().detach())
        with projected(model):
            return first, float(loss().detach())

    return in_evaluation(model, both)


def in_evaluation(model: nn.Module, action: Callable[[], Result]) -> Result:
    """What an action returns with the model in `eval()`, which is left in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # some libraries' layers keep a filter from here on, which should have no graph
        with torch.no_grad():
            model.eval()
        result = action()
        _set_modes(modes)
    except BaseException:
        completed(lambda: _set_modes(modes))
        raise
    return result


def _set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    # parents first: a module's `train` is also that of what is in it
    for module, mode in modes:
        if module.training != mode:
            module.train(mode)


@torch.no_grad()
def _layer(path: str, term: Term) -> LayerSummary:
    weight = term.matrix
    norm = float(weight.norm())
    projection, reason = term.equivariant_part() if norm else None, term.why_not_foldable()
    return LayerSummary(
        path=path,
        op=term.map.op,
        rep_in=str(term.map.rep_in),
        rep_out=str(term.map.rep_out),
        parameters=sum(p.numel() for p in term.parameters()),
        theta=float(term.theta),
        norm=norm,
        share=relaxed_share(term),
        equivariant=None if projection is None else float(projection.norm()) / norm,
        dead=norm == 0 and bool(term.largest_theta) and not _has_gradient(term),
        foldable=reason,
        interpolation=term.map.interpolation,
        unexpressed=None if projection is None or reason is not None else term.unexpressed(projection),
    )


def _has_gradient(term: Term) -> bool:
    """Whether the last backward pass, if its gradients are still there, reached the term."""
    return any(p.grad is not None and bool(p.grad.any()) for p in term.parameters())


def _line(layer: LayerSummary) -> str:
    share = "-" if layer.share is None else f"{layer.share:.1%}"
    note = "  no gradient reaches it" if layer.dead else ""
    error = f", interpolation error {layer.interpolation:.1e}" if layer.interpolation else ""
    rest = f", {layer.unexpressed:.1%} of P_H W do not fold" if (layer.unexpressed or 0) > FOLDS else ""
    return f"  {layer.path}: {layer.rep_in} -> {layer.rep_out}, theta {layer.theta:.3g}, share {share}{rest}{error}{note}"
