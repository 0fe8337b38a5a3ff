"""Sites by data flow: convolutions whose kernel is made in somebody's forward, of turned filters (Cohen & Welling 2016).

Their pixels move, their channels carry a representation, and the kernel, as a map of patches, commutes with both: where the
group maps taps to taps that is exact, and measured on the kernel itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.evidence.other_values import LARGEST_PRODUCT, MOST_AXES
from relaxify.evidence.transformations import LARGEST_AXIS, Transformation
from relaxify.graph.contractions import function_name
from relaxify.graph.derived_weights import DerivedWeight, derived_kernel
from relaxify.graph.weighted_calls import WeightedCall, shape_of
from relaxify.grids import taps
from relaxify.grids.kernels import Convolution, Kernel
from relaxify.grids.pixels import order
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, EvidenceKind, Features, Rejected, RejectionKind, Site

Reason = tuple[str, RejectionKind]


@dataclass(frozen=True)
class MadeKernel(Kernel):
    """A kernel that the model's own code makes of a parameter."""

    derived: DerivedWeight
    parameter: str = ""

    def expand(self, layer: nn.Module) -> tuple[Tensor, None]:
        return self.derived.of(layer, {}), None

    def of(self, layer: nn.Module, parameter: Tensor) -> Tensor:
        return self.derived.of(layer, {self.parameter: parameter})


def judge_made_kernel(model: nn.Module, evidence: Evidence, path: str, calls: Sequence[WeightedCall]) -> Site | Rejected:
    """What all convolutions with kernels made of one parameter say together."""
    results = [_judge(model, evidence, call) for call in calls]
    for call, result in zip(calls, results, strict=True):
        if not isinstance(result, EquivariantMap):
            return Rejected(path, op_name(call.node), *result, location=where(call.node))
    first, *others = [result for result in results if isinstance(result, EquivariantMap)]
    if not all(_is_alike(first, other) for other in others):
        reason = "its convolutions make different kernels of the same parameters, or carry different representations"
        return Rejected(path, first.op, reason, location=where(calls[0].node))
    error = functools.partial(_error, calls[0].contraction.weight.meta["value"], first)
    return Site(path, model.get_submodule(calls[0].owner), first, error, EvidenceKind.data_flow, where(calls[0].node))


def _is_alike(a: EquivariantMap, b: EquivariantMap) -> bool:
    assert a.convolution is not None
    assert b.convolution is not None
    return (
        replace(a.convolution, kernel=b.convolution.kernel) == b.convolution
        and (a.rep_in.blocks, a.rep_out.blocks) == (b.rep_in.blocks, b.rep_out.blocks)
        and a.derived[0].is_like(b.derived[0])
    )


def _judge(model: nn.Module, evidence: Evidence, call: WeightedCall) -> EquivariantMap | Reason:
    group, dims = evidence.group, len(shape_of(call.contraction.weight)) - 2
    before, after = evidence.of(call.contraction.data), evidence.of(call.node)
    nothing = no_evidence(evidence, call, before)
    if nothing and (before.kind != "invariant" or before.pixels is None):
        return nothing
    if after.kind == "undecided":
        return f"the example inputs do not tell how its output transforms at {where(call.node)}", RejectionKind.undecided
    if not after.is_sound:
        return f"its output does not transform as its input does at {where(call.node)}", RejectionKind.unsound
    space = frozenset(range(-dims, 0))
    if before.pixels is None or before.pixels.axes != space or group.dim != dims:
        return f"{group.name} does not move the {dims} axes that it convolves along", RejectionKind.unsupported
    derived = derived_kernel(model, call, transposed="transpose" in function_name(call.node.target))
    if derived is None:
        return "how its kernel is made of its parameters ran out of sight", RejectionKind.unsupported
    convolution = _convolution(call, MadeKernel(derived, call.parameters[0]))
    if convolution.groups > 1:
        return "it convolves in groups, with a kernel that is made in somebody's forward", RejectionKind.unsupported
    if not taps.acts_exactly(group.generators, group.finite, convolution.size):
        return f"{group.name} moves its kernel's taps between taps", RejectionKind.unsupported
    into, out = (
        _fibre(group, found, -dims - 1, shape[-dims - 1])
        for found, shape in ((before, call.shape_in), (after, call.shape_out))
    )
    if into is None or out is None:
        return "what its channels carry is on other axes than theirs", RejectionKind.unsupported
    grid = taps.grid_actions(group.generators, group.finite, convolution.size)
    return EquivariantMap(
        "data_flow",
        op_name(call.node),
        taps.kernel_representation(into, grid),
        out,
        Features((-dims - 1,)),
        Features((-dims - 1,)),
        derived=(derived,),
        intercepts=call.parameters,
        has_constants=call.has_constants,
        convolution=convolution,
    )


def no_evidence(evidence: Evidence, call: WeightedCall, before: Transformation) -> Reason | None:
    """Why what an operation reads says nothing for it, or None if it carries a representation."""
    undecided, spoilt = RejectionKind.undecided, RejectionKind.spoilt
    if evidence.past_divergence(call.node):
        reason = f"the runs on x and on g x take different courses from {evidence.diverged} on"
        return reason, spoilt if before.kind == "none" else undecided
    reasons: dict[str, Reason] = {
        "invariant": (f"invariant -> invariant: it cannot break {evidence.group.name}", RejectionKind.trivial),
        "undecided": (_why_undecided(evidence, call, before), undecided),
        "zero": ("its input is zero, which tells nothing", undecided),
        "none": (f"its input does not transform linearly at {where(call.node)}", spoilt),
    }
    return reasons.get(before.kind)


def _why_undecided(evidence: Evidence, call: WeightedCall, before: Transformation) -> str:
    if not evidence.is_seen(call.contraction.data):
        return "its input was not seen in all runs in float64, or is complex or mapped over, which is not followed"
    if not all(base.isfinite().all() for base, _ in evidence.values(call.contraction.data)):
        return "its input has NaN or infinite values, which tell nothing"
    if before.beyond:
        return (
            f"its input may transform on larger axes than are looked at: up to {LARGEST_AXIS} entries on one, and "
            f"{LARGEST_PRODUCT} on up to {MOST_AXES} together"
        )
    return "too few samples in the example inputs to tell how its input transforms; pass larger ones"


def _convolution(call: WeightedCall, kernel: Kernel) -> Convolution:
    """With the settings that torch's function was called with."""
    node, transposed = call.node, "transpose" in function_name(call.node.target)
    last = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    names = ("stride", "padding", *last)
    given: dict[str, Any] = {name: value for name, value in node.kwargs.items() if name in names}
    given |= dict(zip(names, node.args[3:], strict=False))
    return Convolution.from_torch(shape_of(call.contraction.weight)[2:], transposed=transposed, kernel=kernel, **given)


def _fibre(group: Group, found: Transformation, axis: int, channels: int) -> Representation | None:
    """What the channels of a map of pixels carry; copies of a representation of the group's order apart, if they are."""
    if found.actions is None:
        return Representation.trivial(group, channels)
    if not found.axes:
        return Representation.of(group, "pseudoscalar", channels, found.actions)
    n = order(group)
    if found.axes != (axis,):
        return None
    one = found.actions[:, :n, :n]
    if 1 < n < channels and channels % n == 0:
        copies = torch.eye(channels // n, dtype=found.actions.dtype)
        if torch.allclose(torch.stack([torch.kron(copies, m) for m in one]), found.actions, atol=1e-6):
            return Representation.of(group, f"fitted{n}", channels // n, _rounded(one))
    return Representation.of(group, f"fitted{channels}", 1, _rounded(found.actions))


def _rounded(actions: Float[Tensor, "actions d d"]) -> Float[Tensor, "actions d d"]:
    """Permutations, without what is left of the fit."""
    return actions.round() if torch.allclose(actions, actions.round(), atol=1e-6) else actions


@torch.no_grad()
def _error(kernel: Tensor, map_: EquivariantMap) -> float:
    """How far the kernel that the model made is from commuting with the group."""
    assert map_.convolution is not None
    matrix = map_.convolution.as_matrix(kernel.double())
    return float(lie_derivative(matrix, map_.rep_in, map_.rep_out).norm() / matrix.norm())
