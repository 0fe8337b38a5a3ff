"""Adapters: what is known of one library's layers, found through the entry-point group `relaxify.adapters`.

The built-in adapters are found in just the way a third party's are. Your own layer needs none: a method
`relaxify_sites(self, path, group)`, which yields what an adapter's `sites` would, makes it known.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from torch import fx, nn

from relaxify.groups import Group
from relaxify.sites import Rejected, Site

ENTRY_POINT_GROUP = "relaxify.adapters"


@runtime_checkable
class Adapter(Protocol):
    """Knows one library's equivariant linear layers.

    An adapter is an object named by an entry point of the group `relaxify.adapters`. It is offered every module of a
    model, outermost first, and answers for exact types only.
    """

    name: str

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        """The sites owned by this module (itself, or children that it calls), and candidates that cannot be relaxed.

        Nothing for a module it does not know. Must not import its library unless the module comes from it.
        """
        ...


@dataclass(frozen=True)
class Operation:
    """One executed function call that reads parameters, in the forward of some module.

    `node` holds the function and its arguments (`meta["value"]` of each is what it was, `meta["location"]` its file:line);
    `parameters` are the paths of the parameters that it reads, `shapes` those of its tensor arguments, then of its result.
    """

    node: fx.Node
    path: str
    module: nn.Module
    parameters: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@runtime_checkable
class OperationAdapter(Adapter, Protocol):
    """An adapter that knows functions too: with example inputs it is offered every operation that reads parameters."""

    def operations(self, operation: Operation, group: Group) -> Iterator[Site | Rejected]:
        """The sites of this operation, whose maps name the parameters in `intercepts`; nothing if it is not known."""
        ...


def claims_on(path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
    """What every adapter says of a module, and what the module says of itself by a method `relaxify_sites(path, group)`."""
    for adapter in adapters():
        for claim in adapter.sites(path, module, group.of_features):
            yield _over(claim, group)
    # asked of the class: some modules answer to every name
    if (describe := getattr(type(module), "relaxify_sites", None)) is not None:
        yield from describe(module, path, group)


def _over(claim: Site | Rejected, group: Group) -> Site | Rejected:
    """What is claimed under the linear part of a group, under the group: its translations leave features alone."""
    if isinstance(claim, Rejected) or claim.map.group == group:
        return claim
    return replace(claim, map=replace(claim.map, rep_in=claim.map.rep_in.over(group), rep_out=claim.map.rep_out.over(group)))


@functools.cache
def adapters() -> Sequence[Adapter]:
    """Every adapter installed, by name.

    RuntimeError, naming the entry point and the distribution, if one cannot be loaded or is not an adapter.
    """
    found: list[Adapter] = []
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        origin = f"adapter {point.name!r} ({point.value}" + (f", from {point.dist.name})" if point.dist else ")")
        try:
            adapter = point.load()
        except Exception as error:
            raise RuntimeError(f"{origin} does not load: {error}; fix or uninstall its distribution.") from error
        if isinstance(adapter, type) or not isinstance(adapter, Adapter):
            raise RuntimeError(f"{origin} is not an adapter: pass an object with `name` and `sites(path, module, group)`.")
        found.append(adapter)
    return tuple(found)
