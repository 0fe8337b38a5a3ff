"""A recorded graph without names and arguments, which cost more than all else that is kept of an operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A node that knows neither its graph nor its arguments, and goes with what keeps it: a graph waits for a collection."""

    op: str
    target: Any
    meta: dict[str, Any] = field(default_factory=dict)


class Outline:
    """A graph's nodes without names and arguments, which cost more than all else that is kept of an operation."""

    def __init__(self) -> None:
        self.nodes: list[Point] = []

    def call_function(self, target: Any, *_: Any) -> Point:
        return self._listed("call_function", target)

    def placeholder(self, name: str) -> Point:
        return self._listed("placeholder", name)

    def get_attr(self, name: str) -> Point:
        return self._listed("get_attr", name)

    def output(self, *_: Any) -> Point:
        return self._listed("output", "output")

    def _listed(self, op: str, target: Any) -> Point:
        self.nodes.append(Point(op, target))
        return self.nodes[-1]
