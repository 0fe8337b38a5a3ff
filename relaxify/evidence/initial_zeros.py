"""States that start at zero (ViSNet's vectors, a first message): what a zero carries shows only once it is not zero.

Where a linear operation reads exact zeros, the zeros' source is given random values that transform like another value of the
same shape in the same model; if the model's output still transforms, that is what the state carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.runs import Injection, Injections
from relaxify.evidence.transformations import Transformation
from relaxify.random_elements import Element
from relaxify.representations import Representation
from relaxify.sites import Features

_CREATED = {torch.zeros, torch.zeros_like, Tensor.new_zeros}


def assumptions(evidence: Evidence, zeros: Sequence[fx.Node]) -> Iterator[Injections]:
    """What the states behind these zeros might be: values for their sources, one set for each representation."""
    sources = _sources(evidence, zeros)
    if not sources:
        return
    numbers = {node: i for i, node in enumerate(evidence.nodes)}
    shapes = {tuple(node.meta["value"].shape) for node in sources}
    if len(shapes) != 1:
        return
    for carried in _carried_by_shape(evidence, shapes.pop()):
        yield {numbers[node]: _values(evidence, node, carried, numbers[node]) for node in sources}


def _sources(evidence: Evidence, zeros: Sequence[fx.Node]) -> list[fx.Node]:
    """Where zeros were first made, upstream of zeros that are read."""
    waiting, seen = list(zeros), set(zeros)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            # a node without a value made several tensors: chunk, split
            if source not in seen and (source.meta.get("value") is None or evidence.of(source).kind == "zero"):
                seen.add(source)
                waiting.append(source)
    made = [node for node in evidence.nodes if node in seen and node.target in _CREATED]
    # indices and masks of zeros have no value that is looked at
    made = [node for node in made if node.meta.get("value") is not None and "complex" not in node.meta]
    return [node for node in made if seen.isdisjoint(node.all_input_nodes)]


def _carried_by_shape(evidence: Evidence, shape: tuple[int, ...]) -> list[Transformation]:
    """The different representations that values of this shape carry elsewhere in the model."""
    found: list[Transformation] = []
    for node in evidence.nodes:
        value = node.meta.get("value")
        if value is None or tuple(value.shape) != shape:
            continue
        of_node = evidence.of(node)
        if of_node.kind == "linear" and not any(_same(of_node, other) for other in found):
            found.append(of_node)
    return found


def _same(a: Transformation, b: Transformation) -> bool:
    assert a.actions is not None
    assert b.actions is not None
    return a.axes == b.axes and torch.allclose(a.actions, b.actions, atol=1e-6)


def _values(evidence: Evidence, node: fx.Node, carried: Transformation, seed: int) -> Injection:
    assert carried.actions is not None
    representation = Representation.of(evidence.group, "state", 1, carried.actions)
    features, shape = Features(carried.axes), node.meta["value"].shape

    def inject(sample: int, g: Element | None) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + sample)
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if g is None:
            return value
        if not carried.axes:
            return representation.rho(g).squeeze() * value
        return features.apply(representation.rho(g), value)

    return inject
