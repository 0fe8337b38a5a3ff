"""The scalar attribute that scales a layer (a tensor product's second argument): what it was in training, and what follows.

A layer's map is a * W_e for an attribute a. If that was constant, `fold` may use the layer's paths with a in their scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.record import MAX_SCALE, MIN_SCALE
from relaxify.sites import Path

# every value is below inf and above -inf
NOTHING_SEEN = (math.inf, -math.inf)
VARIES = 1e-5
# in place of any reason of `scaled`, none of which is as long
LONGEST_REASON = "-" * 160


def widened(seen: Float[Tensor, "2"], values: Float[Tensor, "..."]) -> Float[Tensor, "2"]:
    """The lowest and the highest value, those of a call besides.

    >>> widened(torch.tensor(NOTHING_SEEN), torch.tensor([2.0, math.nan, 1.0]))
    tensor([1., 2.])
    """
    low, high = seen.to(values).unbind()
    # a step with NaN is left out, as scalers do, and what it saw with it
    finite = values.isfinite()
    least, most = torch.where(finite, values, math.inf).amin(), torch.where(finite, values, -math.inf).amax()
    return torch.stack([torch.minimum(low, least), torch.maximum(high, most)])


def scaled(paths: Sequence[Path], low: float, high: float) -> tuple[tuple[Path, ...], str | None]:
    """The paths with a constant attribute in their scale; or none, and why."""
    if low > high:
        return (), "the scalar attribute that scales this layer was never seen in training"
    constant = (low + high) / 2
    if constant == 0 or high - low > VARIES * abs(constant):
        return (), f"the scalar attribute that scales this layer is not constant (it went from {low:.3g} to {high:.3g})"
    found = tuple(replace(path, scale=path.scale * constant) for path in paths)
    if not all(MIN_SCALE <= abs(path.scale) <= MAX_SCALE for path in found):
        return (), f"the scalar attribute that scales this layer, {constant:.3g}, is too small or too large to fold"
    return found, None
