"""The share of a term in its layer's output, |theta W x| / |f_e(x)|, rms over what the sketch keeps of the inputs."""

from __future__ import annotations

import torch

from relaxify.relaxation.terms.term import Term


@torch.no_grad()
def relaxed_share(term: Term) -> float | None:
    """|theta W x| / |f_e(x)|, rms over the term's last sketch; None before training."""
    output, relaxation = term.output_square(), term.sketch.mean_square(term.theta * term.matrix)
    if output is None or relaxation is None or not float(output):
        return None
    return (float(relaxation) / float(output)) ** 0.5
