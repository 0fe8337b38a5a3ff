"""CR eq. 5 done naively, as the reference implementation does it but right: what relaxify's own way is compared with.

Dense generators, every row, and the Lie derivative of every sample through autograd: |W x| + sum_A |W A_in x - A_out W x|.
The term itself is a linear map next to the layer, added to its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Site


class NaiveTerm(nn.Module):
    """theta * W x next to a layer, with the rows of its last input for the penalty."""

    def __init__(self, map_: EquivariantMap) -> None:
        super().__init__()
        self.map = map_
        self.weight = nn.Parameter(torch.zeros(map_.rep_out.dim, map_.rep_in.dim))
        self.register_buffer("theta", torch.tensor(0.5))
        self.register_buffer("actions_in", dense(map_.rep_in))
        self.register_buffer("actions_out", dense(map_.rep_out))
        self.rows: Tensor | None = None

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        rows = self.map.features_in.rows(args[0] if args else kwargs[self.map.argument])
        self.rows = rows.detach().flatten(0, -2)
        return output + self.theta * self.map.features_out.restore(F.linear(rows, self.weight), like=output)

    def penalty(self) -> Float[Tensor, ""]:
        """E|W x| + sum_A E|L_A(W) x|."""
        assert self.rows is not None
        image = F.linear(self.rows, self.weight)
        total = length(image)
        for action_in, action_out in zip(self.actions_in, self.actions_out, strict=True):
            total = total + length(F.linear(self.rows @ action_in.mT, self.weight) - image @ action_out.mT)
        return total


def length(x: Float[Tensor, "rows n"]) -> Float[Tensor, ""]:
    # the root's gradient is infinite at 0, where W starts
    return (x.square().sum(-1) + 1e-12).sqrt().mean()


def dense(rep: Representation) -> Float[Tensor, "actions n n"]:
    """Every generator's action as an n x n matrix.

    >>> from relaxify import Group
    >>> dense(Representation.defining(Group.parse("SO(2)")))
    tensor([[[ 0., -1.],
             [ 1.,  0.]]])
    """
    return rep.act(torch.eye(rep.dim)).mT.contiguous()


def relax_naively(sites: Sequence[Site]) -> list[NaiveTerm]:
    """A term at each site, in place."""
    terms = []
    for site in sites:
        term = NaiveTerm(site.map)
        site.module.add_module("naive", term)
        site.module.register_forward_hook(term.hook, with_kwargs=True)
        terms.append(term)
    return terms
