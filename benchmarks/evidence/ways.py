"""The ways to train that are compared, of which each but the first has its learning rate chosen by the same sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.arms import Arm
from relaxify import ACE, RECM, RPP, Constant, Controller, Cosine, RelaxConfig, Triangle


@dataclass(frozen=True)
class Way:
    """An arm, given the number of steps. `is_swept`: its rate is chosen on other seeds, and else is the system's own.

    `relaxed` is the part of the steps in which terms act. A plain way takes as many more steps as such a training costs
    more.
    """

    arm: Callable[[int], Arm]
    what: str
    is_swept: bool = True
    relaxed: float = 0.0

    @property
    def is_plain(self) -> bool:
        return self.arm(1).theta is None

    @property
    def keeps(self) -> bool:
        """Whether what is tested has its terms still, and so is not equivariant."""
        return self.arm(1).keep


def scheduled(
    kind: Callable[..., Controller], until: float | None, config: RelaxConfig, **rest: object
) -> Callable[[int], Arm]:
    """A schedule that ends at a fraction of the steps, with a penalty relative to the loss."""
    return lambda steps: Arm(partial(kind, until=until), config=config, **rest)  # type: ignore[arg-type]


def _refolding(steps: int) -> Arm:
    return Arm(partial(Triangle, until=0.5, refold_every=max(1, steps // 20)), config=RelaxConfig())


def _priors(steps: int) -> Arm:
    return Arm(lambda model, total: RPP(model, basic_wd=1e-2, equiv_wd=1e-5), config=FREE, mode="fold")


FREE = RelaxConfig(weight=0.0, share=None)
PRINTED = RelaxConfig(share=None)
PROJECTION = RelaxConfig(share=None, reduction="projection")

WAYS: dict[str, Way] = {
    "plain": Way(lambda steps: Arm(), "plain training, at the learning rate of earlier work", is_swept=False),
    "plain, tuned": Way(lambda steps: Arm(), "the same, its learning rate swept"),
    "plain, compute of half": Way(
        lambda steps: Arm(), "the same, with as many steps as cost what terms over the first half do", relaxed=0.5
    ),
    "plain, compute of all": Way(
        lambda steps: Arm(), "the same, with as many steps as cost what terms to the last step do", relaxed=1.0
    ),
    "as printed": Way(
        lambda steps: replace(scheduled(Triangle, 1, PRINTED)(steps), relative=False),
        "CR sec. 3.2 and eq. 5 to the letter: Triangle to the last step, a penalty of 0.01 whatever the loss",
        relaxed=1.0,
    ),
    "default": Way(
        scheduled(Triangle, 0.5, RelaxConfig()), "relaxify's defaults: Triangle over the first half, share 5 %", relaxed=0.5
    ),
    "refold": Way(_refolding, "the default, and refolded ten times", relaxed=0.5),
    "from noise": Way(
        scheduled(Triangle, 0.5, RelaxConfig(init="normal")),
        "the default with terms that start from noise, as `diagnose` advises where they would double their layers",
        relaxed=0.5,
    ),
    "Cosine": Way(scheduled(Cosine, 0.5, RelaxConfig()), "the default with Cosine in the place of Triangle", relaxed=0.5),
    "ACE": Way(
        scheduled(ACE, 0.5, RelaxConfig()), "the default with ACE, a theta of each layer as a constraint", relaxed=0.5
    ),
    "RECM": Way(
        scheduled(RECM, 0.5, RelaxConfig()), "the default with RECM, a theta of each layer by its symmetry gap", relaxed=0.5
    ),
    "projection": Way(
        scheduled(Triangle, 0.5, PROJECTION),
        "Triangle over the first half, with the distance from the intertwiners as penalty, relative to the loss",
        relaxed=0.5,
    ),
    "RPP": Way(_priors, "theta = 1 throughout, with priors of 0.01 |W|^2 and 0.00001 |w_e|^2, then folded", relaxed=1.0),
    "no penalty": Way(scheduled(Triangle, 0.5, FREE), "Triangle over the first half, no penalty", relaxed=0.5),
    "no share": Way(
        scheduled(Triangle, 0.5, PRINTED), "Triangle over the first half, eq. 5 relative to the loss", relaxed=0.5
    ),
    "no penalty, to the end": Way(scheduled(Triangle, 1, FREE), "Triangle to the last step, no penalty", relaxed=1.0),
    "constant, folded": Way(
        scheduled(Constant, None, PRINTED, mode="fold"),
        "theta = 1 throughout, eq. 5 relative to the loss, then folded",
        relaxed=1.0,
    ),
    "constant, dropped": Way(
        scheduled(Constant, None, PRINTED), "theta = 1 throughout, eq. 5 relative to the loss, then dropped", relaxed=1.0
    ),
    "constant, fitted": Way(
        scheduled(Constant, None, PRINTED, mode="fit"),
        "theta = 1 throughout, eq. 5 relative to the loss, then fitted on the inputs last seen",
        relaxed=1.0,
    ),
    "constant, kept": Way(
        scheduled(Constant, None, PRINTED, keep=True),
        "theta = 1 throughout, eq. 5 relative to the loss, and the terms are kept (CR sec. 4.4): the tested model has more "
        "parameters than any other, and is only approximately equivariant, which suits only what is no more than that",
        relaxed=1.0,
    ),
}

TUNED, DEFAULT, AS_PRINTED = "plain, tuned", "default", "as printed"
FEW = (TUNED, "plain, compute of half", "plain, compute of all", AS_PRINTED, DEFAULT)
"""What costs many hours is trained in these."""


def rival(way: str) -> str:
    """The plain way that has as much compute as a relaxed one."""
    return next(name for name, other in WAYS.items() if other.is_plain and other.relaxed == WAYS[way].relaxed)
