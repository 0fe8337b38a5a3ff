"""How near to the rotation the generators are that an L-conv has come to: as matrices, and in what they do to the images.

Both are cosines of the angle between the rotation's generator R and the span of the L_i: of matrices, and of L x and R x of
all images. Random L, which are not trained, are the measured level of chance.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.lconv_evidence.setting import Setting
from relaxify.lconv import LConv, generators
from relaxify_examples.lconv.data import Split, drawn
from relaxify_examples.lconv.turning import cosine, rotation


def overlaps(model: nn.Module, setting: Setting, data: Split, seed: int) -> dict[str, float]:
    """The cosines, by name; none for a model without an L-conv or images that are not rotated."""
    if setting.variant == "default" or not any(isinstance(module, LConv) for module in model.modules()):
        return {}
    (found,) = generators(model).values()
    known = rotation(data.train_x.shape[-1])
    if setting.variant == "rotated and scrambled":
        order = torch.from_numpy(drawn(seed, len(data.train_x) + len(data.test_x), len(known))[2])
        known = known[order][:, order]
    images = data.test_x[:, 0].flatten(1).double()
    return {
        "cosine": cosine(found.generators.flatten(1), known.flatten()),
        "chance": math.sqrt(len(found.generators)) / len(known),
        "cosine_on_images": cosine((found.generators @ images.mT).flatten(1), (known @ images.mT).flatten()),
    }
