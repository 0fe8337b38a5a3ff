"""How layers make the kernels that they convolve with: what an adapter tells of a library's convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.convolution import Geometry


@runtime_checkable
class Kernel(Protocol):
    """What an adapter knows of a library's convolutions: an object without state of its own, which must pickle.

    A class that inherits from it has to define `parameter`, `expand` and `of`; the defaults of the others are right for
    layers on plain tensors that cache nothing and are equivariant as they are.
    """

    @property
    def parameter(self) -> str:
        """The name of the parameter that a kernel is linear in."""
        ...

    @property
    def symmetriser(self) -> Float[Tensor, "kernels taps"] | None:
        """None if the layer's own kernel is equivariant; else B for which K B^T B is, K being any kernel.

        B is an orthonormal basis of one channel's symmetric kernels.
        """
        return None

    def expand(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The layer's equivariant kernel, as torch's convolutions take it, and its bias, from its parameters."""
        ...

    def of(self, layer: nn.Module, parameter: Tensor) -> Tensor:
        """The equivariant kernel that the layer would have with another value of its parameter."""
        ...

    def tensor(self, value: Any) -> Tensor:
        """The tensor in what the layer is called with."""
        return value

    def wrap(self, layer: nn.Module, tensor: Tensor, value: Any) -> Any:
        """What the layer returns for an output `tensor` of the input `value`."""
        return tensor

    def cached(self) -> tuple[str, ...]:
        """The names of the buffers, made of its parameters, that the layer has in eval mode only."""
        return ()

    def refresh(self, layer: nn.Module) -> None:
        """Make the cached buffers anew, without gradients, if the layer is in eval mode."""
        return

    def rest(self, layer: nn.Module) -> Tensor | None:
        """What is left of the layer's own kernel without the equivariant one; None if the two are the same."""
        return None

    def symmetrise(self, layer: nn.Module) -> None:
        """Write the equivariant kernel into the layer's parameter, if its own is another."""
        return


@dataclass(frozen=True)
class Convolution(Geometry):
    """How a layer convolves: its geometry, and how it makes its kernel."""

    kernel: Kernel = field(kw_only=True)

    def forward(self, layer: nn.Module, value: Any, added: Float[Tensor, "..."] | None = None) -> Any:
        """The equivariant layer's output, with something added to its kernel."""
        kernel, bias = self.kernel.expand(layer)
        kernel = kernel if added is None else kernel + added
        return self.kernel.wrap(layer, self.apply(self.kernel.tensor(value), kernel, bias), value)


def symmetrised(
    kernel: Float[Tensor, "first second *taps"], projection: Float[Tensor, "all_taps all_taps"]
) -> Float[Tensor, "first second *taps"]:
    """K P: of each pair of channels what an orthogonal projection leaves of its taps."""
    return (kernel.flatten(2) @ projection.to(kernel)).view_as(kernel)
