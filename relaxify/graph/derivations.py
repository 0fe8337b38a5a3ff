"""How a weight is made of a module's parameters: the operations of a recorded run that did it, to be run on other values.

A dense matrix made of coefficients and a basis, of a weight for each degree, of a kernel and its turns: what these can
express is found by running the operations again, whatever they are, and in their order: some write to what others have made.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from relaxify.graph.assembling import is_blank
from relaxify.graph.contractions import function_name
from relaxify.graph.precision import InDouble, widened
from relaxify.graph.recording import Unkept, opaque, written
from relaxify.interrupts import under


@dataclass(frozen=True)
class Slot:
    """Stands in a step's arguments for the tensor of this number."""

    number: int


@dataclass(frozen=True)
class Step:
    """A call of a function."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Derivation:
    """Tensors made of a module's parameters and buffers, called `names`, and of `constants`.

    Slots count the names, then the constants, then the steps; the tensors that are made are in the slots `results`.
    """

    names: tuple[str, ...]
    constants: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of the module that the tensors are made of."""
        return {name: value for name, value in self.attributes(module).items() if isinstance(value, nn.Parameter)}

    def attributes(self, module: nn.Module) -> dict[str, Tensor]:
        """The parameters and buffers of the module that the tensors are made of."""
        return {name: _attribute(module, name) for name in self.names}

    def of(self, module: nn.Module, given: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors that are made where some parameters have the values `given`, in float64 on the CPU."""
        read = [given[name] if name in given else _attribute(module, name).detach() for name in self.names]
        # steps may write to copies
        values = [widened(value).clone() for value in (*read, *self.constants)]
        under(InDouble(), self._replay, values)
        return [values[slot] for slot in self.results]

    def _replay(self, values: list[Any]) -> None:
        """Append what each step makes of those before."""
        for step in self.steps:
            args, kwargs = pytree.tree_map_only(Slot, lambda slot: values[slot.number], (step.args, dict(step.kwargs)))
            values.append(step.function(*args, **kwargs))

    def is_like(self, other: Derivation) -> bool:
        """Whether another derivation makes the same in the same way."""
        return (
            (self.names, self.steps, self.results) == (other.names, other.steps, other.results)
            and len(self.constants) == len(other.constants)
            and all(map(torch.equal, self.constants, other.constants))
        )


def derivation(nodes: Sequence[fx.Node], name_of: Callable[[fx.Node], str | None]) -> Derivation | None:
    """How these nodes were made of attributes, called by their names; None if some of that ran out of sight."""
    order = list(_behind(nodes))
    attributes = {node: name_of(node) for node in order if node.op == "get_attr"}
    constants = [node for node in order if _is_constant(node)]
    steps = sorted(node for node in order if node not in attributes and not _is_constant(node))
    slots = {node: Slot(number) for number, node in enumerate([*attributes, *constants, *steps])}
    names = tuple(name for name in attributes.values() if name is not None)
    made = tuple(step for node in steps if (step := _step(node, slots)) is not None)
    if len(names) < len(attributes) or len(made) < len(steps):
        return None
    held = tuple(map(_held, constants))
    return Derivation(names, held, made, tuple(slots[node].number for node in nodes))


def _is_constant(node: fx.Node) -> bool:
    is_new = is_blank(node) and node.meta.get("seen") is not None
    return node.op != "get_attr" and (is_new or node.meta.get("held") is not None)


def _held(node: fx.Node) -> Tensor:
    found: Tensor | None = node.meta.get("held")
    if found is not None:
        return found.detach().cpu()
    made: Tensor | None = node.meta["value"]
    made = torch.zeros(node.meta["seen"]) if made is None else made.cpu()
    return torch.view_as_complex(made) if "complex" in node.meta else made


def _behind(nodes: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """These nodes after all that they are made of; constants are made of nothing."""
    done: set[fx.Node] = set()
    left = list(reversed(nodes))
    while left:
        node = left[-1]
        waiting = [] if _is_constant(node) else [source for source in node.all_input_nodes if source not in done]
        if node not in done and not waiting:
            done.add(node)
            yield node
        if not waiting:
            left.pop()
        left += waiting


def _step(node: fx.Node, slots: Mapping[fx.Node, Slot]) -> Step | None:
    if node.op != "call_function" or node.target is opaque or not callable(node.target):
        return None
    if any(isinstance(leaf, Unkept) for leaf in pytree.tree_leaves((node.args, node.kwargs))):
        return None
    args, kwargs = _plain(node.args, slots), _plain(node.kwargs, slots)
    if node.target is written:
        # by a step between, if it was seen
        return Step(_first, args, {}) if len(args) == 2 else None
    if function_name(node.target) == "__get__":
        # of x.mT: the object that reads it does not pickle
        name = getattr(node.target, "__self__").__name__  # noqa: B009
        return Step(getattr, (args[0], name), {})
    return Step(_leaf if node.target is operator.getitem else node.target, args, kwargs)


def _first(value: Any, writer: Any) -> Any:
    """What was written to."""
    return value


def _leaf(result: Any, position: int) -> Any:
    """The leaf of a result at which a recorder's node stands."""
    return pytree.tree_leaves(result)[position]


def _plain(value: Any, slots: Mapping[fx.Node, Slot]) -> Any:
    """An argument with slots in the place of nodes, on the CPU, and with Python's own containers in the place of fx's."""
    if isinstance(value, fx.Node):
        return slots[value]
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(_plain(item, slots) for item in value)
    if isinstance(value, slice):
        return slice(*(_plain(end, slots) for end in (value.start, value.stop, value.step)))
    return {key: _plain(item, slots) for key, item in value.items()} if isinstance(value, Mapping) else value


def _attribute(module: nn.Module, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), module)
