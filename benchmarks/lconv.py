"""What each form of L-conv costs, as ratios to the convolution of the same run (targets: 1.10, 1.10 and 1.6 at most).

Pooling over cosets is compared with torch's pooling.

    python benchmarks/lconv.py [--repeats 30] [--check]

Both sides of a ratio are timed in turn, in CPU seconds of one thread, so that what else the machine does falls on both; the
ratio is the median of the repeats'.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from relaxify.lconv import CosetPool, Grid, ImageAlgebra, LConv, LowRank, Shifts, lconvify

CHANNELS = 32


@dataclass(frozen=True)
class Case:
    """One comparison: `ours` against `theirs`, on batches of `batch` images of size x size."""

    name: str
    size: int
    batch: int
    ours: Callable[[torch.Tensor], torch.Tensor]
    theirs: Callable[[torch.Tensor], torch.Tensor]
    target: float | None = None


def cases() -> list[Case]:
    torch.manual_seed(0)
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def functional(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, conv.weight, conv.bias, padding=1)

    exact = lconvify(conv)
    low_rank = LConv(LowRank.random(8, (28, 28), rank=16), CHANNELS, CHANNELS)
    stencil = Shifts((3, 3), padding=((1, 1), (1, 1)))
    return [
        Case("exact", 32, 16, exact, functional, 1.10),
        Case("exact", 224, 1, exact, functional, 1.10),
        Case("low rank 16, n_L = 8 + I", 28, 16, low_rank, functional, 1.6),
        Case("grid, the same everywhere", 28, 16, LConv(Grid.random(9, stencil), CHANNELS, CHANNELS), functional),
        Case("grid, own weights", 28, 16, _own_weights(stencil, 28), functional),
        Case("grid, own weights, one image", 56, 1, _own_weights(stencil, 56), functional),
        Case("grid, own weights, 3 generators", 28, 16, _own_weights(stencil, 28, count=3), functional),
        Case("cosets of 2 x 2, maximum", 28, 16, CosetPool.windows((28, 28), (2, 2), form="max"), _pooled(F.max_pool2d)),
        Case("cosets of 2 x 2, mean", 28, 16, CosetPool.windows((28, 28), (2, 2)), _pooled(F.avg_pool2d)),
        Case("cosets of 2 x 2, maximum", 224, 1, CosetPool.windows((224, 224), (2, 2), form="max"), _pooled(F.max_pool2d)),
        Case("so(2), spectral", 28, 16, LConv(ImageAlgebra(), CHANNELS, CHANNELS, space=(28, 28)), functional),
        Case(
            "so(2), bilinear",
            28,
            16,
            LConv(ImageAlgebra(derivative="bilinear"), CHANNELS, CHANNELS, space=(28, 28)),
            functional,
        ),
    ]


def _own_weights(stencil: Shifts, size: int, count: int = 9) -> LConv:
    return LConv(Grid.random(count, stencil, space=(size, size)), CHANNELS, CHANNELS)


def _pooled(pool: Callable[[torch.Tensor, int], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: pool(x, 2)


def ratio(case: Case, *, backward: bool, repeats: int) -> float:
    """Median over the repeats of our time over theirs."""
    x = torch.randn(case.batch, CHANNELS, case.size, case.size, requires_grad=backward)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for repeat in range(repeats + 3):
        pair = [("ours", case.ours), ("theirs", case.theirs)]
        # whoever runs second finds warmer caches
        for name, run in pair if repeat % 2 else reversed(pair):
            seconds = _time(run, x, backward)
            if repeat >= 3:
                times[name].append(seconds)
    return statistics.median(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))


def _time(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, backward: bool) -> float:
    start = time.process_time()
    if backward:
        run(x).sum().backward()
    else:
        with torch.no_grad():
            run(x)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of L-convs over convolutions.")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    missed = False
    print(f"{'':34}{'size':>6}{'forward':>10}{'training':>10}{'target':>9}")
    for case in cases():
        forward, training = (ratio(case, backward=backward, repeats=arguments.repeats) for backward in (False, True))
        target = f"{case.target:.2f}" if case.target else ""
        print(f"{case.name:34}{case.size:>6}{forward:>10.2f}{training:>10.2f}{target:>9}", flush=True)
        missed = missed or (case.target is not None and max(forward, training) > case.target)
    sys.exit(1 if missed and arguments.check else 0)


if __name__ == "__main__":
    main()
