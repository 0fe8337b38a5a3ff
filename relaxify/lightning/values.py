"""What goes to the loggers."""

from __future__ import annotations

from torch import nn

from relaxify.relaxation.penalties import penalties
from relaxify.relaxation.shares import relaxed_share
from relaxify.relaxation.terms.term import terms_of

PREFIX = "relaxation"


def values_of(model: nn.Module, *, layers: bool) -> dict[str, float]:
    """The largest |theta| and share of a term in its layer's output; with `layers` each layer's, and its penalty."""
    terms = terms_of(model)
    theta = {path: float(term.theta) for path, term in terms.items()}
    share = {path: relaxed_share(term) for path, term in terms.items() if not term.finished}
    shares = {path: value for path, value in share.items() if value is not None}
    found = {f"{PREFIX}/theta": max(theta.values(), key=abs), f"{PREFIX}/share": max(shares.values(), default=0.0)}
    if layers:
        each = {path: float(layer.total) for path, layer in penalties(model).items()}
        for name, values in (("theta", theta), ("share", shares), ("penalty", each)):
            found |= {f"{PREFIX}/{path or 'model'}/{name}": value for path, value in values.items()}
    return found
