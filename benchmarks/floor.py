"""The floor: what any dense term must compute on top of the plain step, its three GEMMs, and nothing else.

y = x W^T forward, and g W and g^T x backward, for each layer at the number of rows that the model gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.sites import Site

Shape = tuple[int, int, int, bool]
"""Rows, n_in, n_out, and whether the layer's input needs a gradient."""


def shapes(model: nn.Module, inputs: tuple[Any, ...], sites: Sequence[Site]) -> list[Shape]:
    """What each site's term would multiply, seen in one forward pass."""
    found: list[Shape] = []
    handles = []
    for site in sites:

        def see(module: nn.Module, args: Any, kwargs: Any, output: Tensor, site: Site = site) -> None:
            x = args[0] if args else kwargs[site.map.argument]
            n_out, n_in = site.map.weight_shape
            if site.map.convolution is None:
                found.append((x.numel() // n_in, n_in, n_out, x.requires_grad))
                return
            x = site.map.convolution.kernel.tensor(x)
            found.append((len(site.map.convolution.patches(x)), n_in, n_out, x.requires_grad))

        handles.append(site.module.register_forward_hook(see, with_kwargs=True))
    model(*inputs)
    for handle in handles:
        handle.remove()
    return found


def gemms(found: Sequence[Shape], device: torch.device) -> Callable[[], None]:
    """A function that multiplies all of them once."""
    operands = {
        shape: [torch.randn(size, device=device) for size in (shape[:2], (shape[2], shape[1]), (shape[0], shape[2]))]
        for shape in set(found)
    }

    @torch.no_grad()
    def run() -> None:
        for shape in found:
            x, weight, gradient = operands[shape]
            torch.mm(x, weight.mT)
            torch.mm(gradient.mT, x)
            if shape[3]:
                torch.mm(gradient, weight)

    return run
