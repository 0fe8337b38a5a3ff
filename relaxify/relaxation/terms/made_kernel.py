"""Terms of convolutions whose kernel is made in somebody's forward: y = conv(x, K_e + theta * K), where that calls torch.

While the module that owns the parameters runs its forward, a function mode adds theta * K to the kernel that the convolution
is called with. What is equivariant is what commutes with the group; it folds as far as the parameters can make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from relaxify.graph.contractions import function_name
from relaxify.graph.weighted_calls import CONVOLUTIONS
from relaxify.grids.kernels import Convolution
from relaxify.interrupts import under
from relaxify.modules.hanging import StandIn
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.counted_passes import is_counted
from relaxify.relaxation.distributed import with_zero_gradients
from relaxify.relaxation.terms.intercepted import InterceptingTerm, Watch
from relaxify.sites import Site


class MadeKernelTerm(InterceptingTerm):
    """theta * K, an unconstrained kernel; W, of shape (channels_out, channels_in * taps), is K flattened."""

    @classmethod
    def takes(cls, site: Site, config: RelaxConfig) -> bool:
        return bool(site.map.intercepts) and site.map.convolution is not None

    @property
    def convolution(self) -> Convolution:
        assert self.map.convolution is not None
        return self.map.convolution

    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        if not self.active:
            return forward.own(*args, **kwargs)
        return under(_KernelWatch(self, forward.module, (args, kwargs)), forward.own, *args, **kwargs)

    def convolved(self, convolve: Callable[..., Tensor], x: Tensor, kernel: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the forward's own convolution gives of the kernel with theta * K."""
        if self._is_over:
            return with_zero_gradients(convolve(x, kernel, *args, **kwargs), *self.parameters())
        if self.training and is_counted():
            dims = len(self.convolution.size)
            self._observe(self.convolution.patches(x if x.ndim > dims + 1 else x[None]), None, (), {})
        matrix = self.weight if self.config.rank is None else self.up @ self.down
        added = self.convolution.as_kernel(self.factor * matrix).to(kernel.dtype)
        return convolve(x, kernel + added, *args, **kwargs)

    def output_square(self) -> Float[Tensor, ""] | None:
        """E|f_e(x)|^2 = tr(K_e C K_e^T)."""
        if self.sketch.is_empty:
            return None
        kernel = self.convolution.kernel.expand(self._whole_layer())[0]
        return self.sketch.mean_square(self.convolution.as_matrix(kernel).to(self.theta))


class _KernelWatch(Watch):
    """Adds the term's kernel to the one that a convolution is called with, if that is made of the term's parameters."""

    term: MadeKernelTerm

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if function_name(func) not in CONVOLUTIONS:
            return super().__torch_function__(func, types, args, kwargs)
        given = _by_position(args, kwargs or {})
        if not self._is_weight(given[0][1]):
            return super().__torch_function__(func, types, args, kwargs)
        result = self.term.convolved(func, *given[0], **given[1])
        self._note(result, self._moving)
        return result


def _by_position(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A convolution's arguments, with its input and its kernel in front."""
    names = ("input", "weight")[len(args) :]
    return (*args, *(kwargs[name] for name in names)), {key: kwargs[key] for key in kwargs.keys() - set(names)}
