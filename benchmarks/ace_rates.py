"""How much ACE's rates matter: a linear layer of vectors learns a linear target that is not equivariant, for 1,500 steps.

`python -m benchmarks.ace_rates` writes `results/ace-rates.json`.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from relaxify import ACE, relaxify
from relaxify.intertwiners import project_to_intertwiners
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

STEPS = 1500
RATES = (0.001, 0.01, 0.1)
RESULTS = Path(__file__).parent / "results" / "ace-rates.json"


@dataclass(frozen=True)
class Outcome:
    """theta at the end, and the least on the way; `distance` is that of the layer's own map from the best, over its size."""

    damping: float
    primal_rate: float
    dual_rate: float
    theta: float
    least: float
    distance: float


def outcome(damping: float, primal_rate: float, dual_rate: float) -> Outcome:
    """Adam on half the mean square error, with white inputs, and no penalty."""
    torch.manual_seed(0)
    layer = relaxify(VNLinear(2, 2).double(), "SO(3)")
    (term,) = terms_of(layer).values()
    x = torch.linalg.qr(torch.randn(64, 6, dtype=torch.float64))[0] * 8
    target = torch.randn(6, 6, dtype=torch.float64) / 6**0.5
    best = project_to_intertwiners(target, term.map.rep_in, term.map.rep_out)
    theta = ACE(layer, STEPS, damping=damping, primal_rate=primal_rate, dual_rate=dual_rate, until=None)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    seen = []
    for _ in range(STEPS):
        y = layer(x.unflatten(1, (3, 2)).mT.unsqueeze(-1)).squeeze(-1).mT.flatten(1)
        ((y - x @ target.mT).square().sum(1).mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()
        seen.append(float(term.theta))
    own = torch.kron(torch.eye(3), layer.map_to_feat.weight.detach())
    return Outcome(damping, primal_rate, dual_rate, seen[-1], min(seen), float((own - best).norm() / best.norm()))


def main() -> None:
    torch.set_num_threads(1)
    found = [outcome(*setting) for setting in itertools.product((0.0, 2.0), RATES, RATES)]
    RESULTS.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    for one in found:
        print(one)


if __name__ == "__main__":
    main()
