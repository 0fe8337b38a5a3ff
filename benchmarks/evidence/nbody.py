"""A narrow SEGNN predicts where charged particles go (CR sec. 4.2), with terms in its update nets as in the paper.

The simulated trajectories are the same for all seeds; weights and batches are a seed's own.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

from benchmarks.evidence.python_only import as_python
from benchmarks.evidence.system import SWEPT_FROM, Data, System
from relaxify_examples.models.segnn import SEGNN
from relaxify_examples.nbody.evaluate import Batch, tensors
from relaxify_examples.nbody.simulate import ChargedParticles, load

LAYERS, WIDTH, SIZE, TESTED = 2, 8, 500, 500


def segnn(width: int) -> SEGNN:
    with as_python():
        return SEGNN(width, LAYERS)


@cache
def trajectories(split: str, count: int) -> Batch:
    return tensors(load(ChargedParticles(), split, count))


def samples(seed: int, size: int) -> Data:
    """The first so many trajectories, whatever the seed; rates are chosen by others than those that are tested."""
    *x, y = trajectories("train", size)
    *test, targets = trajectories("test" if seed < SWEPT_FROM else "valid", TESTED)
    return Data(tuple(x), y, tuple(test), targets)


def thousandths(output: Tensor, targets: Tensor) -> float:
    """Mean square error over trajectories, particles and axes."""
    return 1e3 * float(mse_loss(output, targets))


def _system(name: str, width: int = WIDTH, size: int = SIZE, setting: str = "", **rest: Any) -> System:
    return System(
        name=name,
        title="N-body",
        what=(
            f"A SEGNN of {LAYERS} layers and {width} channels of each degree, with terms in its update nets (CR sec. 4.2), "
            f"learns from {size:,} trajectories of five charged particles where they will be, and is tested on {TESTED} "
            "others."
        ),
        make=partial(segnn, width),
        samples=samples,
        size=size,
        criterion=mse_loss,
        measure=thousandths,
        column="MSE, thousandths",
        higher_is_better=False,
        group="O(3)",
        include=("layers.*.update*",),
        steps=1_000,
        batch=20,
        rate=1e-2,
        rates=(1e-2, 3e-2, 1e-1),
        side_by_side=16,
        form=".2f",
        setting=setting,
        **rest,
    )


def _variant(name: str, setting: str, **changed: int) -> System:
    return _system(f"{NBODY.name}-{name}", setting=setting, of=NBODY.name, sweep=2, **changed)


NBODY = _system("nbody", sweep=4)
WIDTHS = tuple(_variant(f"width-{width}", f"{width} channels", width=width) for width in (4, 16))
SIZES = tuple(_variant(f"size-{size}", f"{size:,} trajectories", size=size) for size in (100, 2_000))
"""CR Fig. 4a, other widths, and Fig. 4b, other amounts of data."""
