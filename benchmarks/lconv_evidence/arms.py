"""The networks that are compared: the reference code's L-conv of 188k parameters, and others of its parameters or compute.

That is n_L = 5 + I, d_h = 8, 16 filters: 188,362 numbers in the reference code, which has a bias for each generator and only
their sum in its output; 188,282 here, with one bias.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lconv_evidence.setting import Protocol
from relaxify_examples.lconv.models import Shape, cnn, fc_like_lconv, fc_shallow, lconv, parameters

CLASSES = 10
SMALL = {"rank": 8, "count": 5, "filters": 16}
Make = Callable[[Shape], nn.Module]


def l_conv(shape: Shape, *, learnable: bool = True) -> nn.Module:
    """L-conv, or with frozen generators the random L."""
    return lconv(shape, CLASSES, learnable=learnable, **SMALL)


def convolution(shape: Shape, *, kernel: int, filters: int | None = None, padded: bool = True) -> nn.Module:
    """A CNN of so many filters; without a number, of those that give it the L-conv's parameters at the least."""
    make = functools.partial(cnn, shape, CLASSES, kernel=kernel, padding=kernel // 2 if padded else 0)
    if filters is None:
        filters, wanted = 1, parameters(l_conv(shape))
        while parameters(make(filters=filters)) < wanted:
            filters += 1
    return make(filters=filters)


def mimic(shape: Shape) -> nn.Module:
    return fc_like_lconv(shape, CLASSES, **SMALL)


def shallow(shape: Shape) -> nn.Module:
    return fc_shallow(shape, CLASSES, target=parameters(l_conv(shape)))


_OTHERS: dict[str, Make] = {"FC (~ L-conv)": mimic, "FC (shallow)": shallow}
_LCONVS: dict[str, Make] = {"L-conv": l_conv, "random L": functools.partial(l_conv, learnable=False)}

ARMS: dict[Protocol, dict[str, Make]] = {
    "fair": {
        **_LCONVS,
        "CNN 3 x 3, equal parameters": functools.partial(convolution, kernel=3),
        "CNN 5 x 5, equal parameters and compute": functools.partial(convolution, kernel=5),
        **_OTHERS,
    },
    "reference": {
        **_LCONVS,
        "CNN 3 x 3": functools.partial(convolution, kernel=3, filters=32, padded=False),
        "CNN 5 x 5": functools.partial(convolution, kernel=5, filters=32, padded=False),
        **_OTHERS,
    },
}


def multiply_adds(model: nn.Module, shape: Shape) -> int:
    """Of a forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2
