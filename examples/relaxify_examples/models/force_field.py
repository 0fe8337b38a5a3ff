"""A molecule's energy and its forces, from a network that gives an energy to each atom: F = -dE/dx by autograd."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify_examples.models.segnn import fully_connected


class ForceField(nn.Module):
    """Conformations of one molecule to energies and forces, which are conservative and as equivariant as the network.

    The forces can be trained on: they carry a graph wherever gradients are on. Under `torch.no_grad` they are had as well,
    without one.

    Args:
        network: from kinds of atoms, positions and edges to an energy for each atom; its `cutoff` says how far atoms see.
        numbers: the atomic number of each atom. Kinds are counted in the order of these.
    """

    def __init__(self, network: nn.Module, numbers: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        order = sorted(set(numbers))
        self.register_buffer("kinds", torch.tensor([order.index(number) for number in numbers]), persistent=False)

    def forward(self, positions: Float[Tensor, "b n 3"]) -> tuple[Float[Tensor, " b"], Float[Tensor, "b n 3"]]:
        is_trained = torch.is_grad_enabled()
        with torch.enable_grad():
            x = positions if positions.requires_grad else positions.detach().requires_grad_()
            flat = x.flatten(0, 1)
            energies = self.network(self.kinds.repeat(len(x)), flat, self._edges(flat.detach(), *x.shape[:2]))
            energies = energies.unflatten(0, x.shape[:2]).sum(1)
            (slopes,) = torch.autograd.grad(energies.sum(), x, create_graph=is_trained)
        return (energies if is_trained else energies.detach()), -slopes

    def _edges(self, positions: Float[Tensor, "rows 3"], molecules: int, atoms: int) -> Tensor:
        pairs = fully_connected(molecules, atoms).to(positions.device)
        distances = (positions[pairs[0]] - positions[pairs[1]]).norm(dim=-1)
        return pairs[:, distances < self.network.cutoff]
