"""What each layer's term does to equivariance, from its weights and from the inputs it had."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from relaxify.evidence.analysis import Analysis
from relaxify.graph.inputs import leaves_of
from relaxify.grids.convolution import Geometry
from relaxify.groups import Group
from relaxify.inspection.report import LayerReport
from relaxify.intertwiners import lie_derivative
from relaxify.relaxation.terms.term import Term
from relaxify.representations import Representation, slices
from relaxify.sites import EquivariantMap, Features, Site
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.verdict import Errors

ELEMENTS = 16
PATCHES = 4096


def layer_report(site: Site, term: Term | None, analysis: Analysis) -> LayerReport:
    """The numbers of one site, and of its term, if that acts on the same features, on the inputs of its first call."""
    map_ = site.map
    plain = LayerReport(
        path=site.path,
        op=map_.op,
        rep_in=str(map_.rep_in),
        rep_out=str(map_.rep_out),
        parameters=site.parameters,
        term_parameters=0,
        error=Errors.of([site.proof if site.proof is not None else site.error()]),
    )
    rows = _rows(site, analysis)
    if term is None or rows is None or _features(term.map) != _features(map_):
        return plain
    return _with_term(plain, site, term, *rows)


@functools.lru_cache(16)
def _elements(group: Group) -> Sequence[Draw]:
    """Elements drawn at random, the nearest to 1 first."""
    generator = torch.Generator().manual_seed(0)
    drawn = [Draw(group, (group.random(generator),)) for _ in range(ELEMENTS)]
    return sorted(drawn, key=lambda g: float((g.matrix - torch.eye(len(g.matrix))).norm()))


def _by_irrep(rep_out: Representation, differences: Sequence[Tensor]) -> dict[str, float]:
    """The root mean square, over elements, of what differs within each irrep of the output."""
    found: dict[str, float] = {}
    for block, part in zip(rep_out.blocks, slices(rep_out.blocks), strict=True):
        square = sum(float(difference[:, part].square().sum()) for difference in differences)
        found[block.name] = found.get(block.name, 0.0) + square / len(differences)
    return {name: math.sqrt(square) for name, square in found.items()}


def _features(map_: EquivariantMap) -> tuple[Features, Features, tuple[int, int]]:
    """A term that was made under another group may act on others."""
    return map_.features_in, map_.features_out, map_.weight_shape


def _rows(site: Site, analysis: Analysis) -> tuple[Tensor, Tensor] | None:
    """The feature vectors that went in and came out in the site's first call, as rows."""
    if site.map.intercepts:
        pairs = [(call.contraction.data, call.node) for call in analysis.calls.get(site.path, ())]
    else:
        calls = analysis.evidence.recording.calls.get(site.path, ())
        pairs = [(call.argument(0, site.map.argument), call.result) for call in calls]
    for data, result in pairs:
        x, y = (_value(node) for node in (data, result))
        if x is None or y is None:
            continue
        if site.map.convolution is not None:
            return _patches(site.map.convolution, x, y)
        x, y = site.map.features_in.rows(x), site.map.features_out.rows(y)
        return x.reshape(-1, site.map.rep_in.dim), y.reshape(-1, site.map.rep_out.dim)
    return None


def _value(node: Any) -> Tensor | None:
    """What a recorded argument or result was: a tensor, or the one tensor in what a library wraps it in."""
    nodes = [leaf for leaf in leaves_of(node) if isinstance(leaf, fx.Node)]
    value = nodes[0].meta.get("value") if len(nodes) == 1 else None
    return value.double() if isinstance(value, Tensor) else None


def _patches(convolution: Geometry, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Patches from all over the images, with the pixels that were made of them."""
    patches = convolution.patches(x)
    some = torch.arange(0, len(patches), -(-len(patches) // PATCHES))
    return patches[some], y.movedim(1, -1).flatten(0, -2)[some]


@torch.no_grad()
def _with_term(plain: LayerReport, site: Site, term: Term, x: Tensor, y_equivariant: Tensor) -> LayerReport:
    rep_in, rep_out = site.map.rep_in, site.map.rep_out
    weight = term.relaxation
    y = y_equivariant + x @ weight.mT
    scale = float(y.norm()) or 1.0

    def size(matrix: Tensor) -> float:
        return float((x @ matrix.mT).norm()) / scale

    drawn = _elements(rep_in.group)
    differences = [x @ (weight @ g.by(rep_in) - g.by(rep_out) @ weight).mT / scale for g in drawn]
    errors = [float(difference.norm()) for difference in differences]
    norm = float(weight.norm())
    projection = term.equivariant_relaxation()
    return replace(
        plain,
        term_parameters=sum(parameter.numel() for parameter in term.parameters()),
        error=Errors.of(errors),
        by_element=tuple(zip(map(str, drawn), errors, strict=True)),
        by_irrep=tuple(_by_irrep(rep_out, differences).items()),
        lie=tuple(size(matrix) for matrix in lie_derivative(weight, rep_in, rep_out)),
        weight_error=float((weight - projection).norm()) / norm if norm else 0.0,
        share=size(weight),
        drop=size(weight),
        fold=size(weight - term.folded()),
    )
