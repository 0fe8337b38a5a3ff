"""The two protocols of LC sec. 4: the reference code's, and one that selects nothing on test data."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.ndimage
import torch

from relaxify_examples.lconv.data import Images, Split, Variant, drawn, split

Protocol = Literal["fair", "reference"]
PROTOCOLS: tuple[Protocol, ...] = ("fair", "reference")


@dataclass(frozen=True)
class Setting:
    """What all arms of a comparison share. With a rate to try, a fifth of the training images are what is tested on."""

    data: str
    protocol: Protocol
    variant: Variant
    epochs: int
    batch_size: int
    rate_to_try: float | None = None

    def split(self, images: Images, seed: int) -> Split:
        """The images of a seed, which draws their angles, the permutation, and which are for testing."""
        whole = (_reference if self.protocol == "reference" else split)(images, self.variant, seed)
        if self.rate_to_try is None:
            return whole
        cut = len(whole.train_x) * 4 // 5
        return Split(whole.train_x[:cut], whole.train_y[:cut], whole.train_x[cut:], whole.train_y[cut:])


def _reference(images: Images, variant: Variant, seed: int) -> Split:
    """Rotated by at most 90 degrees either way by cubic splines, the nearest pixel outside; values from -1/2 to 1/2."""
    x, y = images
    x = x / x.max() - 0.5
    angles, order, pixels = drawn(seed, len(x), x[0, 0].size, degrees=(-90, 90))
    if variant != "default":
        x = np.stack([_turned(image, angle) for image, angle in zip(x, angles, strict=True)])
    if variant == "rotated and scrambled":
        x = x.reshape(*x.shape[:2], -1)[..., pixels].reshape(x.shape)
    parts = np.split(order, [len(x) * 4 // 5])
    (train_x, train_y), (test_x, test_y) = ((torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in parts)
    return Split(train_x, train_y, test_x, test_y)


def _turned(image: np.ndarray, degrees: float) -> np.ndarray:  # type: ignore[type-arg]
    return scipy.ndimage.rotate(image, degrees, axes=(-2, -1), reshape=False, mode="nearest")


def machine() -> str:
    """What the seconds of a run are of."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
