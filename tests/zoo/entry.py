"""What the zoo records of a model from the wild: how to call it, how it transforms, and what a reader finds in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from relaxify import testing

Inputs = tuple[Any, ...]


def unchanged(g: Tensor, value: Any) -> Any:
    """The trivial action, g y = y."""
    return value


def along(*axes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The action of a matrix on these axes of a tensor, each of which carries vectors.

    >>> import torch
    >>> along(-1)(torch.diag(torch.tensor([1.0, 2.0])), torch.ones(1, 2))
    tensor([[1., 2.]])
    """

    def act(g: Tensor, value: Tensor) -> Tensor:
        for axis in axes:
            value = (value.movedim(axis, -1) @ g.to(value.dtype).mT).movedim(-1, axis)
        return value

    return act


def each(*actions: Callable[[Tensor, Any], Any] | None) -> Callable[[Tensor, Any], tuple[Any, ...]]:
    """One action for each item of a tuple; None leaves an item as it is."""

    def act(g: Tensor, values: Any) -> tuple[Any, ...]:
        return tuple(value if action is None else action(g, value) for action, value in zip(actions, values, strict=True))

    return act


def vectors_of_size_three(g: Tensor, inputs: Inputs) -> Inputs:
    """The action where nothing else is said: each axis of size 3 of each floating-point tensor carries vectors."""

    def act(value: Tensor) -> Tensor:
        axes = [axis for axis, size in enumerate(value.shape) if size == 3] if value.is_floating_point() else []
        return along(*axes)(g, value)

    return tree_map_only(Tensor, act, inputs)


@dataclass(frozen=True)
class Entry:
    """One model, and what a person finds by reading it.

    `make` and `inputs` draw from torch's global generator and use torch's default dtype, so that the caller seeds them and
    can have either in float64. `expected`, `invariant` and `impossible` hold module paths, or parameter names where a
    forward method applies a Parameter by itself; every op with a learned matrix is in just one of them, under the first
    of its names.
    """

    name: str
    source: str
    """The paper or package, with its version."""
    group: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    """The call's arguments, of which the last are passed by keyword if `keywords` names them."""
    expected: frozenset[str]
    """Equivariant linear ops whose features in, out or both transform."""
    invariant: frozenset[str] = frozenset()
    """Linear ops from invariants to invariants: listed, not relaxed."""
    impossible: Mapping[str, str] = field(default_factory=dict)
    """Ops on features that transform, with the reason why no term can be added to them."""
    features: frozenset[str] = frozenset()
    """Parameters of several axes that are learned features, not maps."""
    without_effect: Mapping[str, str] = field(default_factory=dict)
    """Those of `expected` whose weights have no gradient, with the reason: to be reported, not to be counted as missed."""
    input_action: Callable[[Tensor, Inputs], Inputs] | None = None
    """(g, inputs) -> g inputs, with g in the group's defining representation; None is `vectors_of_size_three`."""
    output: Callable[[Tensor, Any], Any] = unchanged
    """(g, model(inputs)) -> model(g inputs)."""
    tolerance: float = 1e-10
    """The relative equivariance error of the model in float64."""
    keywords: tuple[str, ...] = ()
    notes: str = ""
    also_double: bool = False
    """Whether it returns something in float64, whatever precision it computes in."""

    def transform(self, g: Tensor, inputs: Inputs) -> Inputs:
        return (self.input_action or vectors_of_size_three)(g, inputs)

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """The model in eval mode, and one input, the same every time."""
        torch.manual_seed(seed)
        with default_dtype(dtype):
            return self.make().eval(), self.inputs()

    def call(self, model: nn.Module, inputs: Inputs) -> Any:
        positional = len(inputs) - len(self.keywords)
        return model(*inputs[:positional], **dict(zip(self.keywords, inputs[positional:], strict=True)))


def paths(*patterns: str, **values: Any) -> frozenset[str]:
    """The paths that the patterns stand for: a name in braces takes each of its values.

    >>> sorted(paths("layers.{i}.lin{j}", "out", i=range(2), j=(1, 2)))
    ['layers.0.lin1', 'layers.0.lin2', 'layers.1.lin1', 'layers.1.lin2', 'out']
    """
    found = set(patterns)
    for name, choices in values.items():
        slot = "{" + name + "}"
        found = {path.replace(slot, str(value)) for path in found for value in (choices if slot in path else [""])}
    return frozenset(found)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def call(entry: Entry, model: nn.Module, inputs: Inputs) -> Any:
    """The model's output in double precision. Inputs are copied: some models set flags on them."""
    with default_dtype(torch.float64):
        return entry.call(model, tree_map_only(Tensor, lambda value: value.detach().clone(), inputs))


def flat(output: Any) -> Tensor:
    """All values of an output in one row, without their gradient."""
    return torch.cat([leaf.detach().flatten() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)])


def equivariance_error(entry: Entry, model: nn.Module, x: Inputs) -> float:
    """max over g of |f(g x) - g f(x)|, over what a perturbation of x of its own size does to f (infinite if nothing)."""
    return testing.equivariance_error(
        lambda *inputs: call(entry, model, inputs),
        entry.group,
        *x,
        input_action=entry.transform,
        output_action=entry.output,
    )
