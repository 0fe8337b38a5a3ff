"""Restriction to a subgroup: W stays among the maps that commute with H, of a group G that it may otherwise break.

Relaxed from G to H (arXiv 2405.13063), an op is W_e + theta W with W rho_in(h) = rho_out(h) W for all h in H: what is
learned beside the equivariant map is invariant under H, and breaks no more than G's symmetry to H's. So the model stays
exactly H-equivariant for any theta, and projecting gives back the G-equivariant one, as intertwiners of G are some of H's:
P_G P_H = P_G.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.intertwiners import intertwiner_basis, merge_pairs, split_pairs
from relaxify.representations import Representation, slices


class Commutant(nn.Module):
    """W -> P_H W, the nearest of the maps that commute with the group of both representations.

    >>> from relaxify import Group
    >>> vector = Representation.defining(Group.parse("SO(2) about z"))
    >>> Commutant(vector, vector)(torch.tensor([[1.0, 0, 2], [0, 3, 0], [0, 0, 5]])).round(decimals=6)
    tensor([[2., 0., 0.],
            [0., 2., 0.],
            [0., 0., 5.]])
    """

    def __init__(self, rep_in: Representation, rep_out: Representation) -> None:
        super().__init__()
        self.rep_in, self.rep_out = rep_in, rep_out
        known: dict[tuple[bytes, bytes], int] = {}
        self.places: list[list[int]] = []
        for action_out in rep_out.actions:
            keys = [(action_out.numpy().tobytes(), action_in.numpy().tobytes()) for action_in in rep_in.actions]
            for key, action_in in zip(keys, rep_in.actions, strict=True):
                if key not in known:
                    known[key] = len(known)
                    self.register_buffer(f"basis_{known[key]}", intertwiner_basis(action_in, action_out), persistent=False)
            self.places.append([known[key] for key in keys])

    def forward(self, weight: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
        rows = []
        columns = list(zip(self.rep_in.blocks, slices(self.rep_in.blocks), strict=True))
        for out, row, places in zip(self.rep_out.blocks, slices(self.rep_out.blocks), self.places, strict=True):
            blocks = []
            for (into, column), place in zip(columns, places, strict=True):
                basis = getattr(self, f"basis_{place}").to(weight.dtype)
                coordinates = torch.einsum("kij,vuij->kvu", basis, split_pairs(weight[row, column], out, into))
                blocks.append(merge_pairs(torch.einsum("kij,kvu->vuij", basis, coordinates), out, into))
            rows.append(torch.cat(blocks, 1))
        return torch.cat(rows)
