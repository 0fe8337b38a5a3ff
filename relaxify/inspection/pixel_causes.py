"""Why an operation on images breaks a symmetry of the pixel grid: its geometry first, then its weights and its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from relaxify.evidence.breaks import op_name
from relaxify.evidence.evidence import Evidence
from relaxify.graph.contractions import MIXING
from relaxify.graph.weighted_calls import shape_of
from relaxify.grids.convolution import Geometry
from relaxify.inspection.cause import Cause


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
    return Cause(
        "flatten",
        f"{op_name(node)} reads a flattened map, with weights of its own for every pixel; pool over the pixels before it",
    )


def _windows(evidence: Evidence, node: fx.Node) -> Cause | None:
    """Windows that cover the map unevenly: what one end loses the other keeps, and a turn exchanges the two."""
    windows = _geometry(node)
    if windows is None or not _moving(evidence, node):
        return None
    op, lengths = op_name(node), tuple(shape_of(node.all_input_nodes[0])[-2:])
    if evidence.group.name == "T(2)":
        return _shifted_windows(op, windows)
    return next(filter(None, (_uneven(op, windows, axis, length) for axis, length in enumerate(lengths))), None)


def _shifted_windows(op: str, windows: Geometry) -> Cause | None:
    stride = max(windows.stride)
    if stride > 1:
        words = f"{op} keeps one place in {stride}: only shifts by multiples of {stride} pixels go through it"
        return Cause("resampling", words)
    return _border(op) if windows.taps > 1 or any(map(sum, windows.padding)) else None


def _uneven(op: str, windows: Geometry, axis: int, length: int) -> Cause | None:
    """What of one axis the windows treat unevenly."""
    if windows.shift[axis]:
        words = f"{op} with an even kernel and padding='same' pads one side more than the other; take an odd kernel"
        return Cause("resampling", words)
    rest, stride = windows.left_over(axis, length), windows.stride[axis]
    if not rest:
        return None
    return Cause(
        "resampling",
        f"{op} with windows of {windows.size[axis]} every {stride} pixels leaves {rest} of {length} out at one end; take "
        f"sizes for which size + {sum(windows.padding[axis])} - {windows.reach[axis]} is a multiple of {stride}",
    )


def _border(op: str) -> Cause:
    return Cause("padding", f"{op} meets a border, where shifts push pixels out; pad in circles (padding_mode='circular')")


def _geometry(node: fx.Node) -> Geometry | None:
    """How a convolution or pooling lays its windows."""
    op = op_name(node)
    read = _CONVOLUTIONS.get(op) or _POOLINGS.get(op)
    if read is None:
        return None
    settings = read(node.args, node.kwargs)
    if op in _CONVOLUTIONS:
        size = tuple(shape_of(node.all_input_nodes[1])[-2:])
    else:
        own = settings["kernel_size"]
        size = (own, own) if isinstance(own, int) else (own[0], own[-1])
    stride, padding, dilation = (settings.get(name) for name in ("stride", "padding", "dilation"))
    return Geometry.from_torch(size, stride=stride or size, padding=padding or 0, dilation=dilation or 1)


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
    if evidence.group.name == "T(2)":
        return _border("pad")
    return Cause("padding", "pad adds more pixels on one side than on the others; pad all sides alike")


def _kernel(evidence: Evidence, node: fx.Node) -> Cause | None:
    if op_name(node) not in ("conv2d", "conv_transpose2d") or not _moving(evidence, node):
        return None
    group = evidence.group.name
    return Cause(
        "kernel",
        f"{op_name(node)}'s kernel does not commute with {group}: average it over the group's turns and flips, or "
        "convolve with all its turned copies",
    )


def _position(evidence: Evidence, node: fx.Node) -> Cause | None:
    """A map that stays where it is, combined with maps whose pixels move: a learned position, a grid of coordinates."""
    if not _moving(evidence, node):
        return None
    for source in node.all_input_nodes:
        value = source.meta.get("value")
        if evidence.of(source).pixels is not None or value is None or value.ndim < 2 or evidence.of(source).kind == "none":
            continue
        if value.shape[-1] * value.shape[-2] > 1 and value.shape[-2:] == node.meta["value"].shape[-2:]:
            return Cause(
                "position",
                f"{op_name(node)} combines maps that move with values that stay at their pixels (absolute positions); "
                "let them depend on the distance from the centre alone, or leave them out",
            )
    return None


def _selection(evidence: Evidence, node: fx.Node) -> Cause | None:
    if op_name(node) not in ("__getitem__", "getitem", "narrow", "select", "roll") or not _moving(evidence, node):
        return None
    words = f"{op_name(node)} picks or shifts pixels so that the grid's centre moves; treat all sides alike"
    return Cause("selection", words)
