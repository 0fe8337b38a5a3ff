"""NequIP's training modules are trained relaxed as any of Lightning's, but for the unit that their loss is in."""

from __future__ import annotations

from torch import Tensor, nn

from relaxify.lightning import Relaxation
from relaxify.nequip.compiled import check_controller
from relaxify.nequip.options import Options
from relaxify.relaxation.controllers.controller import Controller


class RelaxedTraining(Relaxation):
    """`relaxify.lightning.Relaxation` of a model that stays relaxed, for its averages count its parameters.

    `processes`: by how many NequIP multiplies its loss, over whose gradients Lightning then takes the mean.
    """

    def __init__(self, options: Options, processes: int) -> None:
        super().__init__(
            options.group,
            "model",
            controller=self._checked,
            include=options.include,
            exclude=options.exclude,
            config=options.config,
            relative=options.relative,
            project_at_end=False,
        )
        self.options, self.processes = options, processes

    def _checked(self, model: nn.Module, total_steps: int) -> Controller:
        controller = self.options.make_controller(model, total_steps)
        check_controller(model, controller)
        return controller

    def unit(self, loss: Tensor) -> Tensor:
        return loss / self.processes
