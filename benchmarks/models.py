"""The models that are timed, at the sizes at which the reference implementation's cost was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from relaxify.modules.patterns import Pattern
from relaxify_examples.models.segnn import SEGNN, fully_connected
from relaxify_examples.models.vn_dgcnn import VNDGCNN
from relaxify_examples.models.vn_pointnet import VNPointNet


@dataclass(frozen=True)
class Case:
    """A model, what it is fed, which layers are relaxed, and what relaxing it may cost.

    `inputs` makes a batch of so many samples: `batch` of them, or `gpu_batch` on a GPU. `bar` is the most that a relaxed
    step may take, in plain steps; `bar_rank` the same with `rank=16`; `paper` what CR's Table 3 reports (on an A40), which
    is also the bar on a GPU. Without `takes_every_row` the kinds of step that do are left out.
    """

    name: str
    group: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]
    batch: int
    gpu_batch: int
    include: tuple[Pattern, ...] = ()
    bar: float | None = None
    bar_rank: float | None = None
    paper: float | None = None
    takes_every_row: bool = True

    def batch_on(self, device: torch.device) -> int:
        return self.gpu_batch if device.type == "cuda" else self.batch

    def inputs_on(self, device: torch.device) -> tuple[Any, ...]:
        made: tuple[Any, ...] = tree_map_only(Tensor, lambda value: value.to(device), self.inputs(self.batch_on(device)))
        return made


def clouds(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, 300),)


def particles(systems: int) -> tuple[Tensor, ...]:
    """Systems of 5 charged particles."""
    n = 5 * systems
    return (torch.randn(n, 3), torch.randn(n, 3), torch.randn(n, 1).sign(), fully_connected(systems, 5))


def molecules(count: int) -> tuple[Tensor, ...]:
    """Molecules of 21 atoms, each atom with all others of its molecule as neighbours."""
    n = 21 * count
    return (torch.randint(4, (n,)), 2 * torch.randn(n, 3), fully_connected(count, 21))


def equiformer() -> nn.Module:
    """L = 2, 3.5M parameters."""
    from zoo.equiformer import Equiformer

    return Equiformer("128x0e+64x1o+32x2e", depth=8)


def mace() -> nn.Module:
    """mace-torch's own class, with forces by autograd inside forward."""
    import numpy as np
    from e3nn import o3
    from zoo.mace_models import modules

    model: nn.Module = modules.MACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls_first=modules.RealAgnosticInteractionBlock,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps("32x0e+32x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(4),
        avg_num_neighbors=20.0,
        atomic_numbers=[1, 6, 7, 8],
        correlation=2,
        gate=nn.functional.silu,
        radial_MLP=[64, 64],
    )
    return model


def mace_inputs(count: int) -> tuple[Any, ...]:
    numbers, positions, edges = molecules(count)
    data = {
        "positions": positions,
        "node_attrs": torch.eye(4)[numbers],
        "edge_index": edges,
        "shifts": torch.zeros(edges.shape[1], 3),
        "cell": torch.zeros(3 * count, 3),
        "batch": torch.arange(count).repeat_interleave(21),
        "ptr": 21 * torch.arange(count + 1),
    }
    return data, True


def steerable_cnn() -> nn.Module:
    """escnn's own style: regular fields of eight turns, pooling, batch norms."""
    from relaxify_examples.models.steerable_cnn import SteerableCNN

    return SteerableCNN(rotations=8)


def images(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 1, 17, 17),)


FEED_FORWARD = ("*feed_forward*",)
CASES = (
    Case("VN-PointNet, 300 points", "SO(3)", VNPointNet, clouds, 8, 32, bar=1.8, bar_rank=1.3, paper=80 / 75),
    Case("VN-DGCNN, 300 points, k=20", "SO(3)", VNDGCNN, clouds, 4, 32, bar=1.7, bar_rank=1.3, paper=154 / 148),
    Case("SEGNN 64x4, update nets", "O(3)", SEGNN, particles, 100, 100, ("*update*",), bar=1.15),
    Case("SEGNN 64x4, all layers", "O(3)", SEGNN, particles, 100, 100),
    Case("Equiformer-style L=2, feed-forward nets", "O(3)", equiformer, molecules, 4, 32, FEED_FORWARD, 1.06, paper=57 / 52),
    Case("MACE 32x0e+32x1o, with forces", "O(3)", mace, mace_inputs, 4, 32),
    # every patch of every layer, as the naive penalty and the exact one take them, would be hundreds of GFLOP a step
    Case("steerable CNN of C(8), 17 x 17 pixels", "C(8)", steerable_cnn, images, 64, 64, bar=1.15, takes_every_row=False),
)
