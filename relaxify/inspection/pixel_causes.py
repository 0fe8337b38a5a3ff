"""Why an operation on images breaks a symmetry of the pixel grid: its geometry first, then its weights and its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from relaxify.evidence.breaks import op_name
from relaxify.evidence.evidence import Evidence
from relaxify.evidence.weighted_calls import shape_of
from relaxify.graph.contractions import MIXING
from relaxify.inspection.cause import Cause, CauseKind


def pixel_cause(evidence: Evidence, node: fx.Node) -> Cause | None:
    """The likely reason for which a value made of maps does not transform, if it has to do with their pixels."""
    if evidence.grid is None:
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
    window = _window(node)
    if window is None or not _moving(evidence, node):
        return None
    size, kernel, stride, padding, dilation = window
    op, group = op_name(node), evidence.group.name
    if group == "T(2)":
        if stride > 1:
            return Cause(CauseKind.RESAMPLING, op, group, "stride", {"stride": stride})
        return None if padding is None or (padding == 0 and kernel == 1) else Cause(CauseKind.PADDING, op, group, "border")
    if padding is None:
        return Cause(CauseKind.RESAMPLING, op, group, "even kernel") if dilation * (kernel - 1) % 2 == 1 else None
    padded, reach = 2 * padding, dilation * (kernel - 1) + 1
    if (rest := (size + padded - reach) % stride) == 0:
        return None
    details = {"kernel": kernel, "stride": stride, "rest": rest, "size": size, "padded": padded, "reach": reach}
    return Cause(CauseKind.RESAMPLING, op, group, "windows", details)


Window = tuple[int, int, int, int | None, int]
"""Size, kernel, stride, padding (None for "same" on one side more), dilation: of one axis."""


def _window(node: fx.Node) -> Window | None:
    """How a convolution or pooling lays its windows, along the first axis in which they lie unevenly."""
    op = op_name(node)
    read = _CONVOLUTIONS.get(op) or _POOLINGS.get(op)
    if read is None:
        return None
    given = read(node.args, node.kwargs)
    source = node.all_input_nodes[0]
    kernels = shape_of(node.all_input_nodes[1])[-2:] if op in _CONVOLUTIONS else _pair(given["kernel_size"])
    strides = _pair(given["stride"] if given["stride"] not in (None, ()) else kernels)
    paddings = given["padding"]
    dilations = _pair(given.get("dilation", 1))
    windows: list[Window] = []
    for i, axis in enumerate((-2, -1)):
        k, d = kernels[i], dilations[i]
        same = d * (k - 1) // 2 if d * (k - 1) % 2 == 0 else None
        padding = {"same": same, "valid": 0}[paddings] if isinstance(paddings, str) else _pair(paddings)[i]
        windows.append((shape_of(source)[axis], k, strides[i], padding, d))
    return max(windows, key=_is_uneven)


def _is_uneven(window: Window) -> bool:
    size, kernel, stride, padding, dilation = window
    return padding is None or (size + 2 * padding - dilation * (kernel - 1) - 1) % stride != 0


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


Reader = Callable[[tuple[Any, ...], Mapping[str, Any]], dict[str, Any]]


def _reader(*names: str, **defaults: Any) -> Reader:
    """Reads the arguments that have these names, in their order."""

    def read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}

    return read


_CONVOLUTION = _reader("input", "weight", "bias", "stride", "padding", "dilation", stride=1, padding=0, dilation=1)
_CONVOLUTIONS = {"conv2d": _CONVOLUTION}
_MAX = _reader("input", "kernel_size", "stride", "padding", "dilation", stride=None, padding=0, dilation=1)
_AVERAGE = _reader("input", "kernel_size", "stride", "padding", stride=None, padding=0)
_POOLINGS = {"max_pool2d": _MAX, "boolean_dispatch": _MAX, "avg_pool2d": _AVERAGE}


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
