"""What the layers of escnn and of e2cnn have in common: kernels expanded from weights, and the settings of a convolution."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution, Kernel
from relaxify.sites import Rejected, Site


@dataclass(frozen=True)
class SteerableKernel(Kernel):
    """How escnn's layers make their kernels; `cache` is the buffer that holds one in eval mode."""

    cache: str
    parameter: str = "weights"

    def expand(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        return type(layer).expand_parameters(layer)

    def of(self, layer: Any, parameter: Tensor) -> Tensor:
        own = layer._parameters["weights"]
        try:
            layer._parameters["weights"] = parameter
            return self.expand(layer)[0]
        finally:
            layer._parameters["weights"] = own

    def tensor(self, value: Any) -> Tensor:
        return value.tensor

    def wrap(self, layer: Any, tensor: Tensor, value: Any) -> Any:
        return type(value)(tensor, layer.out_type, coords=value.coords if self.cache == "matrix" else None)

    def cached(self) -> tuple[str, ...]:
        return (self.cache, "expanded_bias")

    @torch.no_grad()
    def refresh(self, layer: Any) -> None:
        if layer.training:
            return
        for name, value in zip(self.cached(), self.expand(layer), strict=True):
            if value is not None:
                layer.register_buffer(name, value)


def convolution_of(module: Any, axes: int, kernel: SteerableKernel) -> Convolution:
    """How a layer convolves along so many axes; of a linear layer none."""
    if not axes:
        return Convolution((), kernel=kernel)
    return Convolution.from_torch(
        (module.kernel_size,) * axes,
        kernel=kernel,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        padding_mode=getattr(module, "padding_mode", "zeros"),
        groups=module.groups,
        transposed=hasattr(module, "output_padding"),
        output_padding=getattr(module, "output_padding", 0),
    )


def claims(
    library: str,
    relaxed: Sequence[str],
    path: str,
    module: nn.Module,
    claim: Callable[[], Site | Rejected],
    reasons: Mapping[str, str] = {},
) -> Iterator[Site | Rejected]:
    """The claim of a layer of one of a library's `relaxed` classes; of its other layers with weights, why there is none."""
    # a model with one of its layers has loaded the library
    layers = sys.modules.get(f"{library}.nn")
    if layers is None or not isinstance(module, layers.EquivariantModule):
        return
    kinds, name = tuple(getattr(layers, kind) for kind in relaxed), type(module).__name__
    if type(module) in kinds:
        yield claim()
    elif isinstance(module, kinds):
        yield Rejected(path, f"{library}.{name}", f"{name} is a subclass, which may compute something else")
    elif isinstance(getattr(module, "weights", None), nn.Parameter):
        yield Rejected(path, f"{library}.{name}", reasons.get(name, f"no such layer of {library} is relaxed"))
