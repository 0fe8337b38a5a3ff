"""Why an operation on images breaks a symmetry of the pixel grid: its geometry first, then its weights and its operands."""

from __future__ import annotations

from typing import Any

from torch import fx

from relaxify.evidence.breaks import op_name
from relaxify.evidence.evidence import Evidence
from relaxify.graph.contractions import MIXING
from relaxify.graph.weighted_calls import shape_of
from relaxify.grids.convolution import Geometry
from relaxify.grids.pixels import Pixels
from relaxify.inspection.cause import Cause, CauseKind


def pixel_cause(evidence: Evidence, node: fx.Node) -> Cause | None:
    """The likely reason for which a value made of maps does not transform, if it has to do with their pixels."""
    if evidence.pixel_maps is None or not (moving := _moving(evidence, node)):
        return None
    op, group = op_name(node), evidence.group.name
    if op in MIXING and any(pixels.flat for pixels in moving):
        return Cause(CauseKind.FLATTEN, op, group)
    if (uneven := _windows(op, group, node)) is not None:
        return uneven
    if op == "pad":
        return Cause(CauseKind.PADDING, op, group, "border" if group == "T(2)" else "")
    if op in ("conv2d", "conv_transpose2d"):
        return Cause(CauseKind.KERNEL, op, group)
    if any(_stays(evidence, source, node) for source in node.all_input_nodes):
        return Cause(CauseKind.POSITION, op, group)
    return Cause(CauseKind.SELECTION, op, group, "pixels") if op in _SELECTIONS else None


def _moving(evidence: Evidence, node: fx.Node) -> list[Pixels]:
    """The pixels of the operands that move."""
    places = (evidence.of(source).pixels for source in node.all_input_nodes)
    return [pixels for pixels in places if pixels is not None]


def _windows(op: str, group: str, node: fx.Node) -> Cause | None:
    """Windows that cover the map unevenly: what one end loses the other keeps, and a turn exchanges the two."""
    windows = _geometry(op, node)
    if windows is None:
        return None
    if group == "T(2)":
        return _shifted_windows(op, group, windows)
    lengths = shape_of(node.all_input_nodes[0])[-2:]
    return next(filter(None, (_uneven(op, group, windows, axis, length) for axis, length in enumerate(lengths))), None)


def _shifted_windows(op: str, group: str, windows: Geometry) -> Cause | None:
    stride = max(windows.stride)
    if stride > 1:
        return Cause(CauseKind.RESAMPLING, op, group, "stride", {"stride": stride})
    meets_border = windows.taps > 1 or any(map(sum, windows.padding))
    return Cause(CauseKind.PADDING, op, group, "border") if meets_border else None


def _uneven(op: str, group: str, windows: Geometry, axis: int, length: int) -> Cause | None:
    """What of one axis the windows treat unevenly."""
    if windows.shift[axis]:
        return Cause(CauseKind.RESAMPLING, op, group, "even kernel")
    if not (rest := windows.left_over(axis, length)):
        return None
    kernel, stride = windows.size[axis], windows.stride[axis]
    padded, reach = sum(windows.padding[axis]), windows.reach[axis]
    details = {"kernel": kernel, "stride": stride, "rest": rest, "size": length, "padded": padded, "reach": reach}
    return Cause(CauseKind.RESAMPLING, op, group, "windows", details)


def _geometry(op: str, node: fx.Node) -> Geometry | None:
    """How a convolution or pooling lays its windows."""
    if op not in _ARGUMENTS:
        return None
    settings: dict[str, Any] = {**dict(zip(_ARGUMENTS[op], node.args, strict=False)), **node.kwargs}
    stride, padding, dilation = (settings.get(name) for name in ("stride", "padding", "dilation"))
    if op == "conv2d":
        size, stride = tuple(shape_of(node.all_input_nodes[1])[-2:]), stride or 1
    else:
        own = settings["kernel_size"]
        size = (own, own) if isinstance(own, int) else (own[0], own[-1])
    return Geometry.from_torch(size, stride=stride or size, padding=padding or 0, dilation=dilation or 1)


_MAX = ("input", "kernel_size", "stride", "padding", "dilation")
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation"),
    "max_pool2d": _MAX,
    "boolean_dispatch": _MAX,
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
}


_SELECTIONS = ("__getitem__", "getitem", "narrow", "select", "roll")


def _stays(evidence: Evidence, source: fx.Node, node: fx.Node) -> bool:
    """Whether a map that stays where it is goes into a value: a learned position, a grid of coordinates."""
    found, shape = evidence.of(source), shape_of(source)
    if found.pixels is not None or found.kind == "none" or len(shape) < 2:
        return False
    return shape[-1] * shape[-2] > 1 and shape[-2:] == shape_of(node)[-2:]
