"""relaxify: the surgery. Each planned site gets a term as a child module, of the first kind that takes it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.export import ExportedProgram

from relaxify.graph.complex_values import as_real
from relaxify.graph.exported import opened
from relaxify.groups import Group
from relaxify.interrupts import Before
from relaxify.modules.hanging import child_name, structure
from relaxify.modules.normal_tensors import normal_tensors
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.plan import UNCHECKED, Plan
from relaxify.relaxation.planning import ExampleInputs, UncheckedWarning, plan
from relaxify.relaxation.restoring import guard_loading
from relaxify.relaxation.terms import KINDS
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.sites import Rejected, RejectionKind, Site
from relaxify.verdicts.action_errors import InputAction
from relaxify.verdicts.features import IrrepsOf
from relaxify.verdicts.verdict import Reason, Status

Model = TypeVar("Model", bound=nn.Module)

LARGEST_TERM = 2**30
"""Parameters of a dense term that are made unasked: 4 GB in float32, and three times that with Adam."""
SILENT = (
    "the model's output does not respond to the example inputs, so it is not checked as a whole; its values transform as "
    "they should up to where nothing responds"
)


def relaxify(
    model: Model | ExportedProgram,
    group: Group | str,
    *,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    config: RelaxConfig = RelaxConfig(),
    overrides: Mapping[Pattern, RelaxConfig] | None = None,
    example_inputs: ExampleInputs | None = None,
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
    keep_relaxed: bool = False,
    strict: bool = True,
) -> Model:
    """Add f(x) = f_e(x) + theta * W x (CR eq. 2) to every equivariant linear op of the model, in place.

    The model stays the same object of the same class with the same base parameters and state_dict keys; W starts at zero,
    so its outputs do not change until theta and W do. Terms act in `train()` and not in `eval()`.

    - `model`: any module in single or double precision, before torch.compile and before wrapping for data parallelism; a
      torch.fx graph too. Of a torch.export program, the module is relaxed and returned, on its own example inputs if none
      are given. (Such a module knows no `eval()`: use `projected(model)`.)
    - `group`: a `Group`, or a name such as "SO(3)", "O(2)", "C(4)", "S(5)".
    - `include`, `exclude`: globs on module paths, `re:` patterns, types, or predicates `(path, module) -> bool`; exclusion
      wins.
    - `config`, `overrides`: how to relax; the first matching pattern of `overrides` replaces `config`.
    - `example_inputs`, `input_action`, `input_irreps`: see `plan`; with them, bare nn.Linear layers on vector channels are
      found too, and the model as a whole is checked. Without, an UncheckedWarning says that it is not.
    - `keep_relaxed`: the terms act in `eval()` too, for models that stay approximately equivariant (CR sec. 4.4).
    - `strict`: raise if the model breaks the symmetry somewhere, rather than leave what breaks it, and the layers downstream
      of it that example inputs show to be spoilt, as they are, with a warning that names them.

    Returns the model that it was given. ValueError for bad input: see `plan`, and further if no site is found, if a dense
    term would have more than 2^30 parameters, or if the model is already relaxed otherwise (relaxing it again in the same
    way does nothing). The model is unchanged after an error.

    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    >>> x = torch.randn(16, 3, 4)  # points, components, channels: 4 vectors a point
    >>> before = model(x)
    >>> relaxify(model, "SO(3)", example_inputs=x, config=RelaxConfig(rank=2)) is model
    True
    >>> torch.equal(model(x), before)
    True
    >>> [name for name, _ in model.named_parameters()][:3]
    ['0.weight', '0.relaxation.up', '0.relaxation.down']
    """
    module, example_inputs = opened(model, example_inputs)
    result = plan(
        module,
        group,
        include=include,
        exclude=exclude,
        config=config,
        overrides=overrides,
        example_inputs=example_inputs,
        input_action=input_action,
        input_irreps=input_irreps,
    )
    if strict and result.unsound:
        _check_decided(module, result)
        raise ValueError(
            f"these layers should be equivariant but are not: {_reasons(result.unsound)}; fix them, exclude them, "
            "or pass strict=False to leave such layers, and those downstream of them, as they are."
        )
    if not result.sites:
        raise ValueError(_no_site(result))
    _say_what_is_left(result)
    if result.verdict is None:
        say_unchecked()
    if existing := terms_of(module):
        _check_same(existing, result, keep_relaxed)
        return module  # type: ignore[return-value]
    _check_sizes(result)
    # every term is made before the first is attached, so that an error leaves the model as it was
    with normal_tensors():
        terms = [_make(site, result.configs[site.path], keep_relaxed) for site in result.sites]
    Before(structure(module)).or_done(lambda: _hang(module, result.sites, terms))
    return module  # type: ignore[return-value]


def _hang(model: nn.Module, sites: Sequence[Site], terms: Sequence[Term]) -> None:
    for site, term in zip(sites, terms, strict=True):
        term.hang(site)
    guard_loading(model)


# Python's own "once" forgets what it has said whenever anybody's filters change
@functools.cache
def say_unchecked() -> None:
    """The warning that a model is not checked, once in a process."""
    warnings.warn(UNCHECKED, UncheckedWarning, stacklevel=3)


def _make(site: Site, config: RelaxConfig, keep_relaxed: bool) -> Term:
    kind = next(kind for kind in KINDS if kind.takes(site, config))
    like = next(iter(site.module.parameters()), torch.zeros(()))
    term = kind(site, config, keep_relaxed=keep_relaxed, like=as_real(like.detach()))
    name = child_name(term.operand)
    if hasattr(site.module, name):
        raise ValueError(f"{site.path!r} already has an attribute named {name!r}; rename it, or exclude this layer.")
    return term.train(site.module.training)


def _check_sizes(result: Plan) -> None:
    """ValueError for dense terms that would take all memory: of what mixes all channels they grow as the square."""
    dense = [site for site in result.sites if result.configs[site.path].rank is None]
    if large := [site for site in dense if site.added_parameters > LARGEST_TERM]:
        site = max(large, key=lambda each: each.added_parameters)
        more = f" and {len(large) - 1} more" if len(large) > 1 else ""
        raise ValueError(
            f"the dense term of {site.path!r}{more} would have {site.added_parameters:,} parameters; give it a rank, as by "
            f"overrides={{{site.path!r}: RelaxConfig(rank=16)}}, or exclude it."
        )


def _check_same(existing: Mapping[str, Term], result: Plan, keep_relaxed: bool) -> None:
    for path in [*existing, *result.configs]:
        term, config = existing.get(path), result.configs.get(path)
        if term is None or config is None:
            change = "relaxed before but not now" if config is None else "not relaxed before but now"
        elif (term.map.group, term.config, term.keep_relaxed) != (result.group, config, keep_relaxed):
            change = f"relaxed before with {term.map.group.name}, {term.config}, keep_relaxed={term.keep_relaxed}"
        else:
            continue
        raise ValueError(f"the model is already relaxed in another way ({path!r} was {change}); project(model) it first.")


def _reasons(rejected: Sequence[Rejected]) -> str:
    more = f"; and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    return "; ".join(f"{r.path!r} ({r.op}): {r.reason}" for r in rejected[:5]) + more


def _check_decided(model: nn.Module, result: Plan) -> None:
    """ValueError if nothing but the model as a whole speaks against it, and of that nothing can be told."""
    verdict = result.verdict
    if verdict is not None and verdict.status is Status.UNDECIDED and all(not rejected.path for rejected in result.unsound):
        raise ValueError(
            f"{type(model).__name__} cannot be told to be equivariant under {result.group.name}: {verdict.why}; "
            "give example inputs that tell, or pass strict=False to relax it all the same."
        )


def _say_what_is_left(result: Plan) -> None:
    """A warning that names what stays as it is because the model breaks its symmetry, or says that it cannot be told."""
    if result.verdict is not None and result.verdict.reason is Reason.SILENT and not result.unsound:
        warnings.warn(f"{SILENT}.", stacklevel=3)
    if not result.unsound:
        return
    spoilt = [rejected.path for rejected in result.rejected if rejected.spoilt]
    downstream = f"; downstream of that also {', '.join(map(repr, spoilt))}" if spoilt else ""
    warnings.warn(
        f"{result.group.name} is broken by {_reasons(result.unsound)}{downstream}; these are left as they are.",
        stacklevel=3,
    )


def _no_site(result: Plan) -> str:
    if judged := [rejected for rejected in result.rejected if rejected.kind is not RejectionKind.unjudged]:
        return f"no layer of the model can be relaxed for {result.group.name}: {_reasons(judged)}."
    types = ", ".join(f"{count} {name}" for name, count in sorted(result.looked_at.items()))
    return (
        f"no equivariant layer found for {result.group.name} among {types}; "
        "pass example_inputs=(...) so that layers can be judged by their values, install the adapter for its library, "
        "or write one (see docs/adapters.md)."
    )
