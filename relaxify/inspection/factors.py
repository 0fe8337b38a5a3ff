"""The report under a product of groups, from the reports under its factors: what each of them says, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from relaxify.inspection.report import LayerReport, ModuleReport, NodeReport, OutputReport, Report
from relaxify.verdicts.verdict import Errors, Verdict


def report_of_product(verdict: Verdict, layers: Sequence[LayerReport], factors: Sequence[Report]) -> Report:
    """The worst factor's, with how each value transforms under all of them. The layers are those of the product's plan."""
    worst = next(each for each in factors if each.group == verdict.worst.group)
    return replace(
        worst,
        group=verdict.group,
        verdict=verdict,
        error_in_own_precision=_worst(each.error_in_own_precision for each in factors) or worst.error,
        relaxed_error=_worst(each.relaxed_error for each in factors),
        lie=tuple(error for each in factors for error in each.lie),
        lie_method=", ".join(f"{each.group}: {each.lie_method}" for each in factors),
        outputs=tuple(map(OutputReport.of, verdict.outputs)),
        notes=tuple(note for each in factors for note in each.notes),
        layers=tuple(layers),
        modules=tuple(_modules(factors)),
        nodes=tuple(_nodes(factors)),
        diverged=next((each.diverged for each in factors if each.diverged is not None), None),
        forward_passes=sum(each.forward_passes for each in factors),
        factors=tuple(factors),
    )


def _modules(factors: Sequence[Report]) -> Iterable[ModuleReport]:
    for first, *others in zip(*(each.modules for each in factors), strict=False):
        yield replace(first, transforms=_words(factors, [first, *others]), error=_largest([first, *others]))


def _nodes(factors: Sequence[Report]) -> Iterable[NodeReport]:
    """Up to where runs under one of the factors take another course."""
    for first, *others in zip(*(each.nodes for each in factors), strict=False):
        if any((each.number, each.op) != (first.number, first.op) for each in others):
            return
        yield replace(first, transforms=_words(factors, [first, *others]), error=_largest([first, *others]))


def _words(factors: Sequence[Report], found: Sequence[ModuleReport | NodeReport]) -> str:
    return ", ".join(f"{one.transforms} under {each.group}" for each, one in zip(factors, found, strict=True))


def _largest(found: Sequence[ModuleReport | NodeReport]) -> float:
    return max(one.error for one in found)


def _worst(errors: Iterable[Errors | None]) -> Errors | None:
    return max((each for each in errors if each is not None), key=lambda each: each.largest, default=None)
