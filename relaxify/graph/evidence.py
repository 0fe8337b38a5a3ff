"""Evidence by data flow: how every value of a model transforms, measured by running the model on x and on g x.

For each value and axis the matrix M(g) that carries one run to the other is fitted by least squares over the other axes. A
residual at rounding level, for one element per generator, with M(h) for a further random element as the generators predict,
is the representation on that axis. Fits with too few samples count as no evidence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from scipy.linalg import logm
from torch import Tensor, fx, nn

from relaxify.graph.actions import InputAction, default_action
from relaxify.graph.inputs import map_tensors, tensors_of
from relaxify.graph.recording import Recording, record
from relaxify.groups import Element, Group
from relaxify.representations import Representation
from relaxify.sites import probe

TOLERANCE = 1e-7
ANGLE = 0.25
LARGEST_AXIS = 256

Kind = Literal["invariant", "linear", "none", "undecided"]


@dataclass(frozen=True)
class Transformation:
    """How a value transforms: not at all, by a representation on one axis (from the end), in no linear way, or unknown.

    `actions` are the generators' matrices on that axis, as in Representation.
    """

    kind: Kind
    axis: int | None = None
    actions: Float[Tensor, "actions d d"] | None = None
    residual: float = 0.0

    def __str__(self) -> str:
        return f"linear on axis {self.axis}" if self.kind == "linear" else self.kind


_Pairs = Sequence[tuple[Tensor, Sequence[Tensor]]]
"""For each input x: a value on x, and that value on each g x."""


@dataclass(frozen=True)
class _Sample:
    """One input: the run on x and the runs on g x, for one g per generator and a further one."""

    base: Sequence[fx.Node]
    moved: Sequence[Sequence[fx.Node]]


class Evidence:
    """What runs of a model on transformed inputs say about each of its values.

    `nodes` are those of a run on the example inputs as they are. `diverged` names the statement at which a run on
    transformed inputs first took another course, or is None.
    """

    def __init__(
        self, group: Group, recording: Recording, samples: Sequence[_Sample], diverged: str | None, length: int
    ) -> None:
        self.group = group
        self.recording = recording
        self.nodes = recording.nodes
        self.diverged = diverged
        self._samples = samples
        self._index = {node: i for i, node in enumerate(self.nodes[:length])}
        self._known: dict[int, Transformation] = {}

    def of(self, node: fx.Node) -> Transformation:
        """How the value of a node transforms."""
        index = self._index.get(node)
        if index is None or node.meta.get("value") is None:
            return Transformation("undecided")
        if index not in self._known:
            self._known[index] = self._transformation(index)
        return self._known[index]

    def _transformation(self, index: int) -> Transformation:
        pairs = [(_value(sample.base[index]), [_value(run[index]) for run in sample.moved]) for sample in self._samples]
        if all(_close(moved, base) for base, runs in pairs for moved in runs):
            return Transformation("invariant")
        shape = pairs[0][0].shape
        fits = {axis: _fit(self.group, pairs, axis) for axis in range(-len(shape), 0)}
        # an axis of the group's own size that fits nothing says more than larger axes with too few samples to tell
        kinds = {fit.kind for axis, fit in fits.items() if shape[axis] == self.group.dim} or {f.kind for f in fits.values()}
        linear = next((fit for fit in fits.values() if fit.kind == "linear"), None)
        if linear is None and kinds == {"none"} and not self._fits_two_axes(pairs):
            return Transformation("none")
        return linear or Transformation("undecided")

    def _fits_two_axes(self, pairs: _Pairs) -> bool:
        """Whether a matrix on two axes of the group's size together carries x's value to g x's, as for a tensor r r^T."""
        shape = pairs[0][0].shape
        axes = [axis for axis in range(len(shape)) if shape[axis] == self.group.dim]
        for chosen in itertools.combinations(axes, 2):
            joined = [(_join(base, chosen), [_join(run, chosen) for run in runs]) for base, runs in pairs]
            if _fit(self.group, joined, 0).kind != "none":
                return True
        return False


def observe(
    model: nn.Module,
    group: Group,
    inputs: tuple[Any, ...],
    action: InputAction | None = None,
    *,
    samples: int = 2,
) -> Evidence:
    """Run a float64 copy of the model, in eval mode, on x and on g x, for `samples` inputs x near the given ones.

    ValueError if the model cannot be run on them, or it is ambiguous how the group acts on them.
    """
    action = action or default_action(group, inputs)
    twin, inputs = probe(model), map_tensors(lambda _, tensor: _double(tensor), inputs)
    vector, elements = Representation.defining(group), list(_elements(group))
    collected: list[_Sample] = []
    recording: Recording | None = None
    length, diverged = 0, None
    with _quiet():
        for k in range(samples):
            x = inputs if k == 0 else _nearby(inputs, action(vector.rho(elements[-1]), inputs), seed=k)
            base = _run(twin, x)
            if recording is None:
                recording, length = base, len(base.nodes)
            moved = [_run(twin, action(vector.rho(g), x)) for g in elements]
            # inputs that differ may differ in the number of their neighbours; x and g x may not
            aligned = [_common(recording.nodes[:length], base.nodes, shapes=False)]
            aligned += [_common(base.nodes[:length], run.nodes, shapes=True) for run in moved]
            for common in aligned:
                if common < length:
                    length, diverged = common, recording.nodes[common].meta.get("location", "")
            collected.append(_Sample(base.nodes, [run.nodes for run in moved]))
    assert recording is not None
    return Evidence(group, recording, collected, diverged, length)


def _elements(group: Group) -> Iterator[Element]:
    """One element for each generator, then a random one that tests what they predict."""
    count = len(group.generators)
    for direction in torch.eye(count, dtype=torch.float64):
        yield Element(ANGLE * direction)
    for letter in range(len(group.finite)):
        yield Element(torch.zeros(count, dtype=torch.float64), (letter,))
    generic = group.random(torch.Generator().manual_seed(11))
    yield Element(0.3 * generic.coefficients, generic.word)


def _join(value: Float[Tensor, "..."], axes: tuple[int, int]) -> Float[Tensor, "dd *rest"]:
    return value.movedim(axes, (0, 1)).flatten(0, 1)


def _fit(group: Group, pairs: _Pairs, axis: int) -> Transformation:
    d = pairs[0][0].shape[axis]
    pairs = [pair for pair in pairs if pair[0].shape[axis] == d]
    before = torch.cat([base.movedim(axis, 0).reshape(d, -1) for base, _ in pairs], dim=1)
    if d > LARGEST_AXIS:
        return Transformation("undecided")
    chosen = _columns(before.shape[1], min(before.shape[1], 8 * d + 64))
    inverse = torch.linalg.pinv(before[:, chosen], rtol=1e-6)
    after = [
        torch.cat([runs[e].movedim(axis, 0).reshape(d, -1) for _, runs in pairs], dim=1) for e in range(len(pairs[0][1]))
    ]
    matrices = [moved[:, chosen] @ inverse for moved in after[:-1]]
    fits = [float((m @ before - moved).norm() / moved.norm()) for m, moved in zip(matrices, after, strict=False)]
    if not max(fits, default=0.0) < TOLERANCE:
        return Transformation("none", residual=max(fits))
    # too few samples, or samples that do not span the axis, fit anything
    if len(chosen) < 2 * d or int(torch.linalg.matrix_rank(before[:, chosen], rtol=1e-6)) < d:
        return Transformation("undecided")
    actions = _actions(group, matrices)
    predicted = Representation.of(group, "fitted", 1, actions).rho(list(_elements(group))[-1])
    residual = float((predicted @ before - after[-1]).norm() / after[-1].norm())
    return Transformation("linear" if residual < 10 * TOLERANCE else "none", axis, actions, residual)


def _actions(group: Group, matrices: Sequence[Float[Tensor, "d d"]]) -> Float[Tensor, "actions d d"]:
    """log M(exp(t A)) / t for each Lie generator A, M itself for each finite one; the defining matrices exactly."""
    lie = len(group.generators)
    logs = [torch.as_tensor(logm(m.numpy()).real) / ANGLE for m in matrices[:lie]]
    actions = torch.stack([*logs, *matrices[lie:]])
    exact = torch.cat([group.generators, group.finite])
    return exact if actions.shape == exact.shape and _close(actions, exact) else actions


def _columns(available: int, wanted: int) -> Tensor:
    return torch.randperm(available, generator=torch.Generator().manual_seed(0))[:wanted]


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).norm()) <= TOLERANCE * float(b.norm())


def _value(node: fx.Node) -> Tensor:
    value = node.meta["value"]
    assert isinstance(value, Tensor)
    return value.double()


def _common(first: Sequence[fx.Node], second: Sequence[fx.Node], *, shapes: bool) -> int:
    """How many nodes two runs have in common before one takes another course."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a.target != b.target or a.meta.get("module") != b.meta.get("module") or (shapes and _shape(a) != _shape(b)):
            return i
    return min(len(first), len(second))


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("value")
    return None if value is None else tuple(value.shape)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> Recording:
    # a model may ask for gradients of its inputs (forces), and leaves them changed
    fresh = map_tensors(lambda _, tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad), inputs)
    torch.manual_seed(0)
    try:
        return record(model, fresh)
    except Exception as error:
        raise ValueError(
            f"the model does not run on the example inputs in float64 ({type(error).__name__}: {error}); "
            "pass example_inputs=(...) with the arguments of its forward."
        ) from error


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _nearby(inputs: tuple[Any, ...], moved: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Inputs a little way off, in the tensors that the group moves: more samples for the fits."""
    generator = torch.Generator().manual_seed(seed)
    others = dict(tensors_of(moved))

    def jitter(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or torch.equal(tensor, others[name]):
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor + 0.1 * tensor.std() * noise

    result: tuple[Any, ...] = map_tensors(jitter, inputs)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """New tensors in float64, and the user's random stream as it was afterwards."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
