"""The models that are timed, at the sizes at which the reference implementation's cost was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.segnn import SEGNN, fully_connected
from models.vn_dgcnn import VNDGCNN
from models.vn_pointnet import VNPointNet
from relaxify.relaxation.selection import Pattern


@dataclass(frozen=True)
class Case:
    """A model, what it is fed, which layers are relaxed, and what relaxing it may cost.

    `bar` is the most that a relaxed step may take, in plain steps; `bar_rank` the same with `rank=16`.
    """

    name: str
    group: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    include: tuple[Pattern, ...] = ()
    bar: float | None = None
    bar_rank: float | None = None


def clouds(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, 300),)


def particles() -> tuple[Tensor, ...]:
    """100 systems of 5 charged particles."""
    return (torch.randn(500, 3), torch.randn(500, 3), torch.randn(500, 1).sign(), fully_connected(100, 5))


def molecules() -> tuple[Tensor, ...]:
    """4 molecules of 21 atoms, each atom with all others of its molecule as neighbours."""
    return (torch.randint(4, (84,)), 2 * torch.randn(84, 3), fully_connected(4, 21))


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


def mace_inputs() -> tuple[Any, ...]:
    numbers, positions, edges = molecules()
    data = {
        "positions": positions,
        "node_attrs": torch.eye(4)[numbers],
        "edge_index": edges,
        "shifts": torch.zeros(edges.shape[1], 3),
        "cell": torch.zeros(12, 3),
        "batch": torch.arange(4).repeat_interleave(21),
        "ptr": 21 * torch.arange(5),
    }
    return data, True


CASES = (
    Case("VN-PointNet, B=8, 300 points", "SO(3)", VNPointNet, lambda: clouds(8), bar=1.8, bar_rank=1.3),
    Case("VN-DGCNN, B=4, 300 points, k=20", "SO(3)", VNDGCNN, lambda: clouds(4), bar=1.7, bar_rank=1.3),
    Case("SEGNN 64x4, B=100, update nets", "O(3)", SEGNN, particles, ("*update*",), bar=1.15),
    Case("SEGNN 64x4, B=100, all layers", "O(3)", SEGNN, particles),
    Case("Equiformer-style L=2, B=4, feed-forward nets", "O(3)", equiformer, molecules, ("*feed_forward*",), bar=1.06),
    Case("Equiformer-style L=2, B=4, all layers", "O(3)", equiformer, molecules),
    Case("MACE 32x0e+32x1o, B=4, with forces", "O(3)", mace, mace_inputs),
    # an escnn CNN belongs here once escnn has an adapter
)
