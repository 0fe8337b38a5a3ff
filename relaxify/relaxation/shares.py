"""The share of a term in its layer's output, |theta W x| / |f_e(x)|, rms over what the sketch keeps of the inputs."""

from __future__ import annotations

import torch

from relaxify.relaxation.terms.term import Term


@torch.no_grad()
def relaxed_share(term: Term) -> float | None:
    """|theta W x| / |f_e(x)|, rms over the term's last sketch; None before training."""
    moment, output = term.sketch.moment, term.output_square()
    if moment is None or output is None:
        return None
    weight = (term.theta * term.matrix).to(moment.dtype)
    relaxation = float(torch.einsum("ij,ij->", weight @ moment, weight).clamp(min=0))
    return (relaxation / float(output)) ** 0.5 if float(output) else None
