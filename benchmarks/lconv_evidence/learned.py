"""Which ways of learning find the rotation's generator: from pairs of images, or from labels of rotated ones."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lconv_evidence.runs import completed
from benchmarks.lconv_evidence.setting import machine
from relaxify_examples.lconv.turning import Learned, classify, learn


@dataclass(frozen=True)
class Setting:
    """The steps of fits to pairs, and the epochs of classifiers."""

    data: str = "scikit-learn's digits, 8 x 8"
    updates: int = 300
    epochs: int = 25


def of_pairs(seed: int, setting: Setting, **way: Any) -> tuple[Learned, None]:
    return learn(seed, updates=setting.updates, **way), None


def of_labels(seed: int, setting: Setting, *, learnable: bool) -> tuple[Learned, float]:
    return classify(seed, epochs=setting.epochs, learnable=learnable)


WAYS: dict[str, Callable[[int, Setting], tuple[Learned, float | None]]] = {
    "pairs": of_pairs,
    "pairs, scrambled": functools.partial(of_pairs, scrambled=True),
    "pairs of digits": functools.partial(of_pairs, of_digits=True),
    "pairs too far apart": functools.partial(of_pairs, angle=0.35),
    "labels": functools.partial(of_labels, learnable=True),
    "labels, random L": functools.partial(of_labels, learnable=False),
}


def everything(seeds: int, path: Path, *, small: bool = False) -> None:
    """All ways, a seed at a time; saved as each ends."""
    setting = Setting(updates=250, epochs=3) if small else Setting()
    for found in completed(lambda way, seed: measured(way, seed, setting), setting, list(WAYS), range(seeds), path):
        print(f"{found['arm']:22} seed {found['seed']}: cosine {found['cosine']:.4f}")


def measured(way: str, seed: int, setting: Setting) -> dict[str, Any]:
    start = time.process_time()
    found, accuracy = WAYS[way](seed, setting)
    return {
        "cosine": found.cosine,
        "cosine_on_images": found.cosine_on_images,
        "loss": found.loss,
        "accuracy": accuracy,
        "seconds": round(time.process_time() - start, 3),
        "machine": machine(),
    }
