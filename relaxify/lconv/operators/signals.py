"""Translation and scaling of signals of any length, as differential operators on the circle of their points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids.derivatives import from_centre, spectral
from relaxify.lconv.operators.family import Generators, Space

NAMES = ("translation", "scaling")


class SignalAlgebra(Generators):
    """The named generators on (batch, channels, points): translation -d/dx and scaling -x d/dx, by FFT, x from the middle.

    >>> SignalAlgebra().act(torch.ones(1, 1, 9)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, names: tuple[str, ...] = ("translation",)) -> None:
        super().__init__(len(names), None, ndim=1)
        if unknown := [name for name in names if name not in NAMES]:
            raise ValueError(f"unknown generators of signals {unknown}; the known ones are {', '.join(NAMES)}.")
        self.names, self.transposed = names, False

    def act(self, h: Float[Tensor, "batch channels points"]) -> Float[Tensor, "count batch channels points"]:
        speeds = [h.new_ones(h.shape[2]) if name == "translation" else from_centre(h.shape[2], h) for name in self.names]
        if self.transposed:
            return torch.stack([spectral(v * h, 2) for v in speeds])
        slope = spectral(h, 2)
        return torch.stack([-v * slope for v in speeds])

    def transpose(self, space: Space | None = None) -> SignalAlgebra:
        twin = SignalAlgebra(self.names)
        twin.transposed = not self.transposed
        return twin

    @property
    def power_depends_on_space(self) -> bool:
        return True

    def extra_repr(self) -> str:
        return ", ".join(self.names)
