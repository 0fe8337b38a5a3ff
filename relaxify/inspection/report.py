"""Report: what `inspect` measured, as data, with its renderings as text, JSON and HTML.

Errors are relative: |f(g x) - g f(x)| over |f(x + d) - f(x)|, the response of f to a generic change d as large as g x - x,
so that neither a constant output nor one that is dominated by a constant passes for equivariant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relaxify.figures import errors_of
from relaxify.inspection.cause import Cause, CauseKind
from relaxify.inspection.html import page_of
from relaxify.rendered import Rendered, about_inputs
from relaxify.verdicts.verdict import Errors, OutputVerdict, Verdict, name_of

if TYPE_CHECKING:
    from relaxify.figures import Figure

FORMAT = "relaxify-report/1"


@dataclass(frozen=True)
class OutputReport:
    """One tensor of the output: how it transforms, or as what it comes nearest to transforming, and its error."""

    name: str
    shape: tuple[int, ...]
    transforms: str
    error: Errors
    response: float
    """|f(x + d) - f(x)| / |f(x)|: an output that does not respond proves nothing."""
    by_element: tuple[tuple[str, float], ...] = ()
    """The largest error at each group element, over inputs."""

    @classmethod
    def of(cls, found: OutputVerdict) -> OutputReport:
        """What the verdict says of it."""
        return cls(found.name, found.shape, found.transforms, found.error, found.response, found.by_element)


@dataclass(frozen=True)
class LayerReport:
    """One site. `error` is that of its output with its term, on the inputs it had.

    `lie`: |L_A(theta W) x| / |y| for each generator A; `weight_error`: |W - P_H W| / |W|; `share`: |theta W x| / |y|;
    `drop` and `fold`: how much of its output a projection of this mode takes away. None without a term.
    `by_element`: the errors, elements nearest to 1 first; `by_irrep`: their root mean square in each irrep of the output.
    """

    path: str
    op: str
    rep_in: str
    rep_out: str
    parameters: int
    term_parameters: int
    error: Errors
    lie: tuple[float, ...] | None = None
    weight_error: float | None = None
    share: float | None = None
    drop: float | None = None
    fold: float | None = None
    by_element: tuple[tuple[str, float], ...] = ()
    by_irrep: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class NodeReport:
    """One executed operation: where, and how its value transforms. `error` is that of transforming so, or at all."""

    number: int
    name: str
    op: str
    module: str
    location: str
    shape: tuple[int, ...]
    transforms: str
    error: float


@dataclass(frozen=True)
class ModuleReport:
    """What a module returned, first tensor of its last call."""

    path: str
    type: str
    transforms: str
    error: float


@dataclass(frozen=True)
class Fault:
    """The first operation that breaks the symmetry, and why. `amplified`: the output's error over its own."""

    module: str
    op: str
    location: str
    source: str
    why: Cause
    error: float
    amplified: float

    @property
    def kind(self) -> CauseKind:
        """The kind of its cause, for programs."""
        return self.why.kind

    @property
    def cause(self) -> str:
        """Its cause in a sentence, for people."""
        return str(self.why)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `details` are the numbers and names that the sentence `cause` quotes."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "why"}
        return {**data, "kind": self.kind.value, "cause": self.cause, "details": dict(self.why.details)}


@dataclass(frozen=True, repr=False)
class Report(Rendered):
    """What `inspect` measured of a model under a group.

    `fault` is the operation to which the error is traced back; `notes` are those that look odd in a model that is sound as a
    whole; `undecided`, of a model that is not, the first operations before the fault that the runs tell too little of.
    `factors`, of a product of groups, are the reports under each: `error` and `fault` are those of the worst. `inputs` are
    the names of the inputs and what each is: its precision, shape, and how the group moves it.
    """

    group: str
    model: str
    verdict: Verdict
    error: Errors
    error_in_own_precision: Errors
    relaxed_error: Errors | None
    lie: tuple[float, ...]
    lie_method: str
    outputs: tuple[OutputReport, ...]
    fault: Fault | None
    notes: tuple[Fault, ...]
    undecided: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    modules: tuple[ModuleReport, ...]
    nodes: tuple[NodeReport, ...]
    diverged: str | None
    forward_passes: int
    factors: tuple[Report, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()

    @property
    def faults(self) -> Mapping[str, Fault]:
        """The fault under each group that is broken: of a product, the factors."""
        return {each.group: each.fault for each in self.factors or (self,) if each.fault is not None}

    @property
    def is_sound(self) -> bool:
        """Whether the error, on full-size group elements, is within the tolerance: see `verdict`."""
        return self.verdict.is_sound

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the key `format`: "relaxify-report/1"."""
        fault = None if self.fault is None else self.fault.to_dict()
        told: dict[str, Any] = {
            "fault": fault,
            "notes": [note.to_dict() for note in self.notes],
            "verdict": self.verdict.to_dict(),
        }
        plain = dataclasses.asdict(dataclasses.replace(self, fault=None, notes=(), factors=()))
        del plain["factors"]
        told |= {"factors": [each.to_dict() for each in self.factors]} if self.factors else {}
        return {"format": FORMAT, **plain, "is_sound": self.is_sound, **told}

    def to_html(self) -> str:
        """A page that needs no network, light or dark as the reader's system is."""
        return page_of(self.to_dict(), self.about())

    def about(self) -> dict[str, str]:
        """The inputs that it was inspected on, and the precision."""
        return {"measured in": name_of(self.verdict.precision)} | about_inputs(dict(self.inputs))

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The sites, a row each."""
        return [
            {**dataclasses.asdict(each), "error": each.error.mean, "largest": each.error.largest} for each in self.layers
        ]

    def plot(self) -> Figure:
        """The error of every layer, of terms by irrep and group element too; of modules if there is no layer."""
        if self.layers:
            errors = {layer.path: layer.error.mean for layer in self.layers}
        else:
            errors = {module.path or "(the model)": module.error for module in self.modules}
        measured = [layer for layer in self.layers if layer.by_element]
        heats = {each.path: (dict(each.by_irrep), [error for _, error in each.by_element]) for each in measured}
        return errors_of(self.model, self.group, errors, heats)

    def diff(self, other: Report) -> Diff:
        """What changed from this report to a later one."""
        return Diff(tuple(_changes(self, other)))

    def __str__(self) -> str:
        lines = [f"{self.model} under {self.group}: error {self.error.mean:.1e}, at most {self.error.largest:.1e}"]
        if self.factors:
            alone = [str(dataclasses.replace(each, layers=())) for each in self.factors]
            return "\n".join([*lines, *(f"  {line}" for each in alone for line in each.split("\n")), *self._layer_lines])
        lines.append(f"  {self.verdict.told}")
        if self.fault is None and self.verdict.elements and not self.is_sound:
            lines += ["  no single operation could be named", *(f"    undecided: {each}" for each in self.undecided)]
        lines += [f"  note: {note.op} at {note.location}: {note.cause}" for note in self.notes]
        if self.fault is not None:
            lines.append(f"  breaks at {self.fault.op} in {self.fault.module or 'the model'}, {self.fault.location}:")
            lines += [f"    {self.fault.source}", f"    {self.fault.cause}"]
            lines += [f"    undecided before it: {each}" for each in self.undecided]
        return "\n".join([*lines, *self._layer_lines])

    @property
    def _layer_lines(self) -> list[str]:
        return [f"  {layer.path}: {layer.rep_in} -> {layer.rep_out}, error {layer.error.mean:.1e}" for layer in self.layers]


@dataclass(frozen=True)
class Change:
    """One number that differs between two reports; None where one of them lacks it."""

    what: str
    before: float | str | None
    after: float | str | None


@dataclass(frozen=True)
class Diff:
    """What differs between two reports."""

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(f"{c.what}: {_show(c.before)} -> {_show(c.after)}" for c in self.changes) or "no change"


def _changes(before: Report, after: Report) -> Iterator[Change]:
    values = [dict(_values(report)) for report in (before, after)]
    for what in dict.fromkeys([*values[0], *values[1]]):
        one, two = (of_report.get(what) for of_report in values)
        if one != two:
            yield Change(what, one, two)


def _values(report: Report) -> Iterator[tuple[str, float | str | None]]:
    yield "error", report.error.mean
    yield "fault", f"{report.fault.op} at {report.fault.location}" if report.fault else None
    for group, fault in report.faults.items() if report.factors else ():
        yield f"fault under {group}", f"{fault.op} at {fault.location}"
    for layer in report.layers:
        yield f"{layer.path} error", layer.error.mean
        yield from ((f"{layer.path} {name}", getattr(layer, name)) for name in ("share", "weight_error", "drop", "fold"))


def _show(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.2e}"
