"""The record of one term: what a checkpoint says of it, so that it can be projected later without anyone's code.

A record travels as a uint8 tensor of UTF-8 JSON (the term's extra state), which every checkpoint format can hold. What
comes from a file is hostile until `Record.decode` has checked every field.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor

from relaxify.graph.contractions import ChannelOrder
from relaxify.modules.hanging import CHILD
from relaxify.representations import Block, Layout
from relaxify.sites import Path
from relaxify.spans import Span

FORMAT = "relaxify/1"
_VERSION = re.compile(r"relaxify/(\d{1,8})(?:\.(\d{1,8}))?")
MAX_BYTES = 4 * 1024**2
MAX_TEXT = 4096
MAX_INTEGER = 2**40
# torch's own bound on axes; and the square of the taps is what symmetrising a kernel takes
MAX_AXES, MAX_TAPS = 64, 4096
# beyond these the least-norm share of a path, scale / sum scale^2, leaves the range of float64
MIN_SCALE, MAX_SCALE = 1e-30, 1e30

T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, converted or written: one sentence says what, why, and how to fix it.

    `path` is the file that it names, empty as long as it names none.
    """

    path: str = ""


class NewerFormatWarning(UserWarning):
    """Of a record with fields that this version of relaxify does not know."""


@dataclass(frozen=True)
class Record:
    """One term theta * W, as a checkpoint describes it.

    `path` is the site's module in the relaxed model, `aliases` the other modules that share its weight. W, of shape
    (dim rep_out, dim rep_in), is stored as the keys `weight_keys`: ("weight",), or ("up", "down") where W = up @ down.
    `axes_in` and `axes_out` say which axes of the layer's tensors hold the features. `paths` say what of W the layer's
    own parameters, of shapes `base_shapes`, can express, or `spans`, if these are coefficients of a basis of maps
    from its one block to the other; `unfoldable` says why they cannot. `updates` is where resumed
    training continues in the stream of sampled rows. A convolution in `groups` joins each output to the inputs of its group
    alone: W has fewer columns by that factor. `symmetriser`, if not empty, is an orthonormal basis of one channel's kernels:
    the layer is an ordinary convolution, of whose `weight` the part in their span stays. `attribute` is the least and the
    largest value in training of the scalar that scales the layer, if there is one; empty before. CheckpointError if these
    disagree.

    >>> vectors = (Block("1o", 2, 3),)
    >>> record = Record(
    ...     path="lin", aliases=(), adapter="e3nn", op="Linear", group="O(3)", rep_in=vectors, rep_out=vectors,
    ...     axes_in=(-1,), axes_out=(-1,), weight_keys=("weight",), paths=(Path("weight", 0, 0, 0),),
    ...     base_shapes={"weight": (4,)}, unfoldable=None,
    ... )  # fmt: skip
    >>> Record.decode(record.encode()) == record
    True
    """

    path: str
    aliases: tuple[str, ...]
    adapter: str
    op: str
    group: str
    rep_in: tuple[Block, ...]
    rep_out: tuple[Block, ...]
    axes_in: tuple[int, ...]
    axes_out: tuple[int, ...]
    weight_keys: tuple[str, ...]
    paths: tuple[Path, ...]
    base_shapes: dict[str, tuple[int, ...]]
    unfoldable: str | None
    updates: int = 0
    functional: bool = False
    groups: int = 1
    symmetriser: tuple[tuple[float, ...], ...] = ()
    attribute: tuple[float, ...] | None = None
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        if self.weight_keys not in (("weight",), ("up", "down")):
            raise _invalid(f"its weight keys are {self.weight_keys}, not ('weight',) or ('up', 'down')")
        if len({self.path, *self.aliases}) <= len(self.aliases):
            raise _invalid("it names one module twice in path and aliases")
        if of_term := [name for name in self.base_shapes if name.partition(".")[0] == CHILD]:
            raise _invalid(f"its base parameter {of_term[0]!r} belongs to a term")
        if self.groups > 1 and (self.paths or sum(block.dim for block in self.rep_in) % self.groups):
            raise _invalid(f"it has {self.groups} groups, which do not fit its features or its paths")
        for path in self.paths:
            _check_path(self, path)
        _check_disjoint(self)
        _check_spans(self)
        _check_symmetriser(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in) of W."""
        return sum(block.dim for block in self.rep_out), sum(block.dim for block in self.rep_in) // self.groups

    @property
    def is_foldable(self) -> bool:
        return self.unfoldable is None and bool(self.paths or self.spans)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The layer's parameters that something is folded into."""
        return tuple(dict.fromkeys([*(path.parameter for path in self.paths), *(span.parameter for span in self.spans)]))

    def path_size(self, path: Path) -> int:
        """How many entries of its flat parameter a path owns."""
        return self.rep_in[path.block_in].multiplicity * self.rep_out[path.block_out].multiplicity

    def encode(self) -> UInt8[Tensor, " bytes"]:
        """The record as a tensor of UTF-8 JSON; equal records give equal bytes."""
        fields = asdict(self) | {
            "layout": {"axes_in": self.axes_in, "axes_out": self.axes_out},
            "weight_key": self.weight_keys,
            "base_shapes": dict(sorted(self.base_shapes.items())),
        }
        document = {"format": FORMAT} | {name: fields[name] for name in _RECORD}
        if self.attribute is None:
            # as records were written before there was one
            del document["attribute"]
        if not self.spans:
            del document["spans"]
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        if len(data) > MAX_BYTES:
            raise _invalid(f"it takes {len(data)} bytes, more than {MAX_BYTES}")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    @classmethod
    def decode(cls, tensor: object) -> Record:
        """The record in an extra state read from a file. CheckpointError unless `encode` could have written it."""
        document = _document(tensor)
        _check_version(document)
        # records from before convolutions were relaxed do not have them
        document = {"groups": 1, "symmetriser": [], "attribute": None, "spans": []} | document
        fields = _fields(document, "it", _RECORD)
        layout, weight_keys = fields.pop("layout"), fields.pop("weight_key")
        return cls(**fields, **layout, weight_keys=weight_keys)


def _invalid(why: str) -> CheckpointError:
    return CheckpointError(f"the relaxify record is invalid: {why}; save the relaxed model again.")


def _check_version(document: dict[str, Any]) -> None:
    """Take the format off. A later minor version only adds fields that may be ignored; a later major one is refused."""
    version = document.pop("format", None)
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise CheckpointError(f"the extra state does not say {FORMAT!r}: it is not a relaxify record; rename its module.")
    if match[1] != "1":
        raise CheckpointError(f"the record has format {version!r}: written by a newer relaxify; upgrade relaxify.")
    if int(match[2] or 0) > 0:
        words = f"records have format {version!r}: what it adds is ignored; upgrade relaxify."
        warnings.warn(words, NewerFormatWarning, stacklevel=2)
        for name in document.keys() - _RECORD.keys():
            del document[name]


def _check_path(record: Record, path: Path) -> None:
    if path.block_in >= len(record.rep_in) or path.block_out >= len(record.rep_out):
        raise _invalid(f"a path joins block {path.block_in} to block {path.block_out}, which do not both exist")
    into, out = record.rep_in[path.block_in], record.rep_out[path.block_out]
    if into.dimension != out.dimension:
        raise _invalid(f"a path joins {into} to {out}, whose dimensions differ")
    if not MIN_SCALE <= abs(path.scale) <= MAX_SCALE:
        raise _invalid(f"a path from {into} to {out} has scale {path.scale}")
    if path.parameter not in record.base_shapes:
        raise _invalid(f"a path uses parameter {path.parameter!r}, whose shape is not given")
    end, size = path.offset + record.path_size(path), math.prod(record.base_shapes[path.parameter])
    if end > size:
        raise _invalid(f"a path ends at entry {end} of parameter {path.parameter!r}, which has {size}")


def _check_disjoint(record: Record) -> None:
    """Two paths on one entry would each add their whole update to it."""
    spans = sorted((path.parameter, path.offset, path.offset + record.path_size(path)) for path in record.paths)
    for (first, _, end), (second, start, _) in itertools.pairwise(spans):
        if first == second and start < end:
            raise _invalid(f"two paths share entry {start} of parameter {first!r}")


def _check_spans(record: Record) -> None:
    """Coefficients of their own for each pair of copies; whether they are distinct is seen when they are folded."""
    if not record.spans:
        return
    if record.paths or record.groups > 1 or (len(record.rep_in), len(record.rep_out)) != (1, 1):
        raise _invalid("its spans are not between one block and another")
    (into,), (out,) = record.rep_in, record.rep_out
    for name in {span.parameter for span in record.spans}:
        own = [span for span in record.spans if span.parameter == name]
        size = math.prod(record.base_shapes.get(name, (0,)))
        last = [(out.multiplicity - 1) * span.stride_out + (into.multiplicity - 1) * span.stride_in for span in own]
        ends = [span.offset + each for span, each in zip(own, last, strict=True)]
        if max(ends) >= size or len(own) * out.multiplicity * into.multiplicity > size:
            raise _invalid(f"its spans have more coefficients than parameter {name!r}")
    if any(row >= out.dimension or column >= into.dimension for span in record.spans for row, column, _ in span.entries):
        raise _invalid(f"its spans are of larger matrices than from {into} to {out}")


def _check_symmetriser(record: Record) -> None:
    shape = record.base_shapes.get("weight", ())
    if record.symmetriser and math.prod(shape[2:]) > MAX_TAPS:
        raise _invalid(f"its symmetriser is of kernels with more than {MAX_TAPS} taps")
    if any(len(shape) < 3 or len(row) != math.prod(shape[2:]) for row in record.symmetriser):
        raise _invalid(f"its symmetriser is not of the taps of a weight of shape {shape}")


def _document(tensor: object) -> dict[str, Any]:
    if isinstance(tensor, Tensor) and tensor.is_floating_point():
        raise CheckpointError(
            f"a relaxify record is {str(tensor.dtype).removeprefix('torch.')}, and was bytes (uint8); average or cast only "
            "those entries of a state dict that are floating-point, and keep the others as they are."
        )
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise _invalid("it is not a one-dimensional uint8 tensor")
    if tensor.layout != torch.strided or tensor.is_meta or not 0 < tensor.numel() <= MAX_BYTES:
        raise _invalid(f"it holds {tensor.numel()} bytes on {tensor.device}, not 1 to {MAX_BYTES} in memory")
    try:
        document = json.loads(
            tensor.cpu().numpy().tobytes().decode(), parse_constant=_not_finite, object_pairs_hook=_without_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise _invalid("it is not JSON") from error
    if not isinstance(document, dict):
        raise _invalid("it is not a JSON object")
    return document


def _not_finite(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return result


Reader = Callable[[Any, str], T]


def _fields(value: object, what: str, readers: dict[str, Reader[Any]]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != readers.keys():
        raise _invalid(f"{what} does not have the fields {', '.join(readers)}")
    return {name: read(value[name], name) for name, read in readers.items()}


def _text(value: object, what: str) -> str:
    # unprintable characters could drive the terminal of whoever reads a report
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _invalid(f"{what} is not printable text of at most {MAX_TEXT} characters")
    return value


def _optional_text(value: object, what: str) -> str | None:
    return None if value is None else _text(value, what)


def _integer(value: object, what: str, *, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_INTEGER:
        raise _invalid(f"{what} is not an integer from {low} to {MAX_INTEGER}")
    return value


def _truth(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(f"{what} is neither true nor false")
    return value


_positive = functools.partial(_integer, low=1)
_axis = functools.partial(_integer, low=-MAX_INTEGER)


def _number(value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_SCALE:
        raise _invalid(f"{what} is not a number from {-MAX_SCALE} to {MAX_SCALE}")
    return float(value)


def _entry(value: object, what: str) -> tuple[int, int, float]:
    if not isinstance(value, list) or len(value) != 3:
        raise _invalid(f"{what} are not row, column and value")
    return _integer(value[0], what), _integer(value[1], what), _number(value[2], what)


def _choice(*choices: str) -> Reader[str]:
    def read(value: object, what: str) -> str:
        if value not in choices:
            raise _invalid(f"{what} is none of {', '.join(choices)}")
        return str(value)

    return read


def _list(read: Reader[T]) -> Reader[tuple[T, ...]]:
    def read_all(value: object, what: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _invalid(f"{what} is not a list")
        return tuple(read(item, what) for item in value)

    return read_all


def _object(make: Callable[..., T], readers: dict[str, Reader[Any]]) -> Reader[T]:
    return lambda value, what: make(**_fields(value, what, readers))


def _range(value: object, what: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) not in (0, 2):
        raise _invalid(f"{what} is not a range of two numbers")
    if not all(isinstance(end, float) and math.isfinite(end) for end in value) or value != sorted(value):
        raise _invalid(f"{what} does not go from one finite number to another")
    return tuple(value)


def _shapes(value: object, what: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        raise _invalid(f"{what} is not an object")
    if any(isinstance(shape, list) and len(shape) > MAX_AXES for shape in value.values()):
        raise _invalid(f"{what} has a shape of more than {MAX_AXES} axes")
    return {_text(name, what): _list(_integer)(shape, what) for name, shape in value.items()}


_BLOCK: dict[str, Reader[Any]] = {
    "name": _text,
    "multiplicity": _integer,
    "dimension": _positive,
    "layout": _choice(*get_args(Layout)),
}
_PATH: dict[str, Reader[Any]] = {
    "parameter": _text,
    "offset": _integer,
    "block_in": _integer,
    "block_out": _integer,
    "scale": _number,
    "order": _choice(*get_args(ChannelOrder)),
}
_SPAN: dict[str, Reader[Any]] = {
    "parameter": _text,
    "offset": _integer,
    "stride_out": _integer,
    "stride_in": _integer,
    "entries": _list(_entry),
}
_LAYOUT: dict[str, Reader[Any]] = {"axes_in": _list(_axis), "axes_out": _list(_axis)}
_RECORD: dict[str, Reader[Any]] = {
    "path": _text,
    "aliases": _list(_text),
    "adapter": _text,
    "op": _text,
    "group": _text,
    "rep_in": _list(_object(Block, _BLOCK)),
    "rep_out": _list(_object(Block, _BLOCK)),
    "layout": _object(dict, _LAYOUT),
    "weight_key": _list(_text),
    "paths": _list(_object(Path, _PATH)),
    "base_shapes": _shapes,
    "unfoldable": _optional_text,
    "updates": _integer,
    "functional": _truth,
    "groups": _positive,
    "symmetriser": _list(_list(_number)),
    "attribute": _range,
    "spans": _list(_object(Span, _SPAN)),
}
