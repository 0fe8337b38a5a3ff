"""Why an operation on images breaks a symmetry of the pixel grid: its geometry first, then its weights and its operands."""

from __future__ import annotations

from typing import Any

from torch import fx

from relaxify.evidence.breaks import op_name
from relaxify.evidence.evidence import Evidence
from relaxify.graph.contractions import MIXING
from relaxify.graph.weighted_calls import shape_of
from relaxify.grids.convolution import Geometry
from relaxify.inspection.cause import Cause, CauseKind


def pixel_cause(evidence: Evidence, node: fx.Node) -> Cause | None:
    """The likely reason for which a value made of maps does not transform, if it has to do with their pixels."""
    if evidence.pixel_maps is None:
        return None
    tests = (_flatten, _windows, _pad, _kernel, _position, _selection)
    return next((cause for cause in (test(evidence, node) for test in tests) if cause is not None), None)


def _moving(evidence: Evidence, node: fx.Node) -> list[fx.Node]:
    """The operands whose pixels move."""
    return [source for source in node.all_input_nodes if evidence.of(source).pixels is not None]


def _flatten(evidence: Evidence, node: fx.Node) -> Cause | None:
    places = [evidence.of(source).pixels for source in _moving(evidence, node)]
    if op_name(node) not in MIXING or not any(pixels is not None and pixels.flat for pixels in places):
        return None
    return Cause(CauseKind.FLATTEN, op_name(node), evidence.group.name)


def _windows(evidence: Evidence, node: fx.Node) -> Cause | None:
    """Windows that cover the map unevenly: what one end loses the other keeps, and a turn exchanges the two."""
    windows = _geometry(node)
    if windows is None or not _moving(evidence, node):
        return None
    op, group, lengths = op_name(node), evidence.group.name, tuple(shape_of(node.all_input_nodes[0])[-2:])
    if group == "T(2)":
        return _shifted_windows(op, group, windows)
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


def _geometry(node: fx.Node) -> Geometry | None:
    """How a convolution or pooling lays its windows."""
    op = op_name(node)
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


def _pad(evidence: Evidence, node: fx.Node) -> Cause | None:
    if op_name(node) != "pad" or not _moving(evidence, node):
        return None
    group = evidence.group.name
    return Cause(CauseKind.PADDING, "pad", group, "border" if group == "T(2)" else "")


def _kernel(evidence: Evidence, node: fx.Node) -> Cause | None:
    if op_name(node) not in ("conv2d", "conv_transpose2d") or not _moving(evidence, node):
        return None
    return Cause(CauseKind.KERNEL, op_name(node), evidence.group.name)


def _position(evidence: Evidence, node: fx.Node) -> Cause | None:
    """A map that stays where it is, combined with maps whose pixels move: a learned position, a grid of coordinates."""
    if not _moving(evidence, node):
        return None
    for source in node.all_input_nodes:
        value = source.meta.get("value")
        if evidence.of(source).pixels is not None or value is None or value.ndim < 2 or evidence.of(source).kind == "none":
            continue
        if value.shape[-1] * value.shape[-2] > 1 and value.shape[-2:] == node.meta["value"].shape[-2:]:
            return Cause(CauseKind.POSITION, op_name(node), evidence.group.name)
    return None


def _selection(evidence: Evidence, node: fx.Node) -> Cause | None:
    if op_name(node) not in ("__getitem__", "getitem", "narrow", "select", "roll") or not _moving(evidence, node):
        return None
    return Cause(CauseKind.SELECTION, op_name(node), evidence.group.name, "pixels")
