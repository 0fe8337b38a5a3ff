"""What adapters prove a layer's equivariance with: a copy with generic weights, generic inputs, and the error on them.

A layer's equivariance is a property of its form, not of its weights' values; weights that start at zero, as some layers' do,
would prove nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from relaxify.modules.hanging import probe
from relaxify.representations import Representation
from relaxify.sites import Features

ELEMENTS = 2


@torch.no_grad()
def generic_twin(module: nn.Module) -> nn.Module:
    """A float64 copy of the layer in eval mode, with random weights, always the same.

    >>> generic_twin(nn.Linear(2, 1)).weight.dtype
    torch.float64
    """
    twin, generator = probe(module), torch.Generator().manual_seed(2)
    for parameter in twin.parameters():
        parameter.normal_(generator=generator)
    return twin


def generic_input(*shape: int) -> Float[Tensor, "..."]:
    """Random numbers in float64, always the same.

    >>> generic_input(2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def commutation_error(
    function: Callable[[Tensor], Tensor],
    rep_in: Representation,
    rep_out: Representation,
    x: Float[Tensor, "..."],
    *,
    features_in: Features = Features(),
    features_out: Features = Features(),
) -> float:
    """max over random g of |f(rho_in(g) x) - rho_out(g) f(x)| / (|f(x) - f(0)| + |rho_out(g) f(x) - f(x)|), CR eq. 1.

    The denominator is the response of f, so that a constant output proves nothing: a function without response gives inf.
    """
    generator = torch.Generator().manual_seed(0)
    y, zero = function(x).detach(), function(torch.zeros_like(x)).detach()
    errors = []
    for _ in range(ELEMENTS):
        g = rep_in.group.random(generator)
        moved = function(features_in.apply(rep_in.rho(g), x)).detach()
        expected = features_out.apply(rep_out.rho(g), y)
        response = float((y - zero).norm() + (expected - y).norm())
        errors.append(float((moved - expected).norm()) / response if response else float("inf"))
    # unlike the builtin, this max lets NaN through
    return float(torch.tensor(errors).max())


def structure(module: nn.Module) -> Hashable:
    """All that a layer computes with, except its parameters' values: layers of equal structure have the same proof.

    >>> structure(nn.Linear(2, 1)) == structure(nn.Linear(2, 1)), structure(nn.Linear(2, 1)) == structure(nn.Linear(2, 2))
    (True, False)
    """
    # generated classes are each its own type, but their code says what they are
    generated = isinstance(module, fx.GraphModule | torch.jit.ScriptModule)
    kind: Hashable = module.code if generated else (type(module), type(module).forward)
    own = {} if generated else {name: value for name, value in vars(module).items() if name not in _IGNORED}
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters(recurse=False))
    buffers = tuple((name, _plain(buffer)) for name, buffer in module.named_buffers(recurse=False))
    children = tuple((name, structure(child)) for name, child in module.named_children())
    return (kind, _plain(own), shapes, buffers, children)


# what nn.Module keeps for itself: tensors and children are compared by name, and hooks take no part in a proof
_IGNORED = frozenset(vars(nn.Module()))


def _bytes(value: Tensor) -> bytes:
    # numpy knows no bfloat16
    return value.detach().resolve_conj().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _plain(value: object) -> Hashable:
    """A value to compare by; an object that cannot be compared is equal only to itself."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), _bytes(value))
    if isinstance(value, tuple | list):
        return (type(value), *map(_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # a cached property is no field, and may be the value itself
        return (type(value), *(_plain(getattr(value, field.name)) for field in dataclasses.fields(value)))
    if isinstance(value, slice):
        return (slice, *map(_plain, (value.start, value.stop, value.step)))
    if isinstance(value, Mapping):
        return tuple((_plain(key), _plain(item)) for key, item in value.items())
    if value is None or isinstance(value, int | float | str | bytes | torch.dtype):
        return (type(value), value)
    return ("object", id(value))
