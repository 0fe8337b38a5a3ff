"""NequIP's training modules are trained relaxed as any of Lightning's, but for the unit that their loss is in."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from relaxify.lightning import Relaxation
from relaxify.lightning.framework import Trainer
from relaxify.nequip.compiled import check_controller
from relaxify.nequip.options import Options
from relaxify.relaxation.controllers.controller import Controller


class RelaxedTraining(Relaxation):
    """`relaxify.lightning.Relaxation` of a model that stays relaxed, for its averages count its parameters.

    `world_size`: by how many processes NequIP multiplies its loss, over whose gradients the mean is then taken.
    """

    def __init__(self, options: Options, world_size: int) -> None:
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
        self.options, self.world_size = options, world_size

    def _checked(self, model: nn.Module, total_steps: int) -> Controller:
        controller = self.options.make_controller(model, total_steps)
        check_controller(model, controller)
        return controller

    def unit(self, loss: Tensor) -> Tensor:
        return loss / self.world_size

    def processes(self, trainer: Trainer) -> dist.ProcessGroup | None:
        # NequIP's SimpleDDPStrategy takes the mean without wrapping the module
        return super().processes(trainer) or (dist.group.WORLD if self.world_size > 1 else None)
