"""project: from a relaxed model back to a clean one of the original class, parameter count and keys (CR sec. 3.2)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from relaxify.interrupts import Before
from relaxify.modules.hanging import copy_without, structure, take_off
from relaxify.modules.normal_tensors import normal_tensors
from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.distributed import averaged_moment, replicas_of
from relaxify.relaxation.pitfalls import PitfallWarning, never_acted, never_learned, still_acting
from relaxify.relaxation.real_numbers import is_real
from relaxify.relaxation.restoring import unguard_loading
from relaxify.relaxation.terms.copied import follow
from relaxify.relaxation.terms.folded import FOLDS, Update
from relaxify.relaxation.terms.term import Term, owned_terms, terms_of

Mode = Literal["drop", "fold", "fit"]
Model = TypeVar("Model", bound=nn.Module)

_log = logging.getLogger("relaxify")


def project(model: Model, *, mode: Mode = "drop", inplace: bool = False, max_theta: float | None = None) -> Model:
    """A clean model without terms, hooks or extra keys; the relaxed model stays as it was unless `inplace`.

    - `model`: a relaxed model, or one that was loaded from the checkpoint of one.
    - `drop` sets theta = 0: bit-equal to the relaxed model's equivariant part.
    - `fold` adds theta * P_H(W) to the layers' own weights, as far as they can express it: never further from the relaxed
      layer than `drop` in weight norm.
    - `fit` solves min_H tr((theta W - H) C (theta W - H)^T) over what the layers can express, with C = E[x x^T] of the
      inputs last seen in training: never further on those inputs than either.
    - At theta = 0 both are `drop`: W is no part of the function any more, and the layers were trained without it since.
    - `max_theta`: refuse to project a model that was not annealed to at most this theta.

    The clean model is as equivariant as the one that was relaxed, which is checked as a whole only with the example inputs
    of `relaxify` (or by `inspect`): layers that each keep a symmetry do not make a model that does.

    A model sharded by FSDP2 is gathered into an ordinary one on every process; all of them call this.

    Layers that cannot express anything (`summary(model)` says why) are dropped. RuntimeError if the model is not relaxed;
    ValueError for an unknown mode, a theta above `max_theta`, or NaN in what would be folded or written. What `drop` leaves
    as it is may have NaN, of which a warning tells. After an error the model is what it was, `inplace` too.

    >>> from relaxify import relaxify
    >>> plain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    >>> x, keys = torch.randn(16, 3, 4), list(plain.state_dict())
    >>> model = relaxify(plain, "SO(3)", example_inputs=x)
    >>> clean = project(model)
    >>> type(clean) is type(model), list(clean.state_dict()) == keys, torch.equal(clean(x), model(x))
    (True, True, True)
    """
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms to project; call relaxify(model, group) first.")
    if mode not in ("drop", "fold", "fit"):
        raise ValueError(f"project(mode={mode!r}): unknown; use 'drop', 'fold' or 'fit'.")
    if max_theta is not None and not (is_real(max_theta) and max_theta >= 0):
        raise ValueError(f"project(max_theta={max_theta!r}): it bounds |theta|; pass 0 or more.")
    follow(terms.values())
    _check_theta(terms, max_theta)
    _say_what_is_lost(model, mode)
    owned = list(owned_terms(model))
    replicas = replicas_of(model)
    updates = [(owner, _updates(term, mode, replicas)) for owner, term in owned] if mode != "drop" else []
    if inplace and sharded_modules(model):
        raise ValueError("project(inplace=True) of a sharded model: its shards hold the terms; project it without inplace.")
    if inplace:
        before = Before(structure(model), _values_of(model, owned))
        clean, spoilt = before.or_done(lambda: _settled(_taken_off(model, terms), owned, updates))
    else:
        with normal_tensors():
            clean, spoilt = _settled(copy_without(model, list(terms.values())), owned, updates)
    if spoilt:
        warnings.warn(_words_of(spoilt), PitfallWarning, stacklevel=2)
    return clean


def _taken_off(model: Model, terms: Mapping[str, Term]) -> Model:
    take_off(model, {id(term) for term in terms.values()})
    return model


def _settled(
    clean: Model, owned: Sequence[tuple[str, Term]], updates: Sequence[tuple[str, list[Update]]]
) -> tuple[Model, list[str]]:
    """The model with what is left to do to its layers, and the names of its parameters that are not finite.

    ValueError if one of these is of the parameters that were written.
    """
    written = {f"{owner}.{name}".removeprefix(".") for owner, slices in updates for name, _, _ in slices}
    for owner, slices in updates:
        add_updates(clean.get_submodule(owner), slices)
    for owner, term in owned:
        term.settle(clean.get_submodule(owner))
        written |= {f"{owner}.{name}".removeprefix(".") for name in term.settled_parameters}
    unguard_loading(clean)
    spoilt = [name for name, parameter in clean.named_parameters() if not parameter.isfinite().all()]
    if lost := [name for name in spoilt if name in written]:
        raise ValueError(
            f"{_named(lost)} of the projected model would have NaN or infinite values, as its layer has them or they "
            "overflow; restore an earlier checkpoint, or fold nothing into it with mode='drop'."
        )
    return clean, spoilt


def _words_of(spoilt: Sequence[str]) -> str:
    return (
        f"{_named(spoilt)} of the model had NaN or infinite values before it was relaxed or since, and the projected model "
        "has them too; restore an earlier checkpoint."
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _values_of(model: nn.Module, owned: Sequence[tuple[str, Term]]) -> list[Tensor]:
    """The parameters and buffers that settling a term may write to, each once."""
    layers = [model.get_submodule(owner) for owner, _ in owned]
    return list({id(value): value for layer in layers for value in (*layer.parameters(), *layer.buffers())}.values())


def _say_what_is_lost(model: nn.Module, mode: Mode) -> None:
    for sentence in (never_acted(model), never_learned(model), still_acting(model) if mode == "drop" else None):
        if sentence is not None:
            warnings.warn(sentence, PitfallWarning, stacklevel=3)
    if mode != "drop" and not any(bool(term.theta) for term in terms_of(model).values()):
        _log.warning("theta is 0, so nothing of the terms is left in the model's function: mode=%r is 'drop' here", mode)


def _check_theta(terms: dict[str, Term], max_theta: float | None) -> None:
    for path, term in terms.items():
        if max_theta is not None and not abs(float(term.theta)) <= max_theta:
            raise ValueError(
                f"theta of {path!r} is {float(term.theta):.3g}, above max_theta={max_theta}: the relaxation still acts; "
                "anneal it (for example with Triangle) before projecting, or raise max_theta; if this is an average of "
                "weights that has averaged theta too, set_theta(model, 0) first."
            )


def _updates(term: Term, mode: Mode, replicas: dist.ProcessGroup | None) -> list[Update]:
    """What `fold` or `fit` adds to the layer's parameters; nothing where they cannot take any, or theta is 0."""
    if not bool(term.theta):
        return []
    if (reason := term.why_not_foldable()) is not None:
        _log.info("%s is dropped: %s cannot be used, because %s", term.path, mode, reason)
        return []
    if term.map.derived and (rest := term.unexpressed()) > FOLDS:
        _log.info("%s: %.1f%% of its equivariant part are dropped, which its weights cannot express", term.path, 100 * rest)
    moment = term.sketch.moment if mode == "fit" else None
    if moment is not None and replicas is not None:
        moment = averaged_moment(moment, term.sketch.count, replicas)
    if moment is not None and not moment.isfinite().all():
        raise ValueError(
            f"the inputs of {term.path!r} last seen in training had NaN or infinite values, so nothing fits them; run a "
            "training pass on others, or project with mode='fold'."
        )
    return term.updates(moment)


NewValues = list[tuple[nn.Parameter, Tensor]]
"""Parameters, and what they will hold."""


@torch.no_grad()
def updated(module: nn.Module, updates: list[Update]) -> NewValues:
    """A module's parameters with something added to slices of them, summed in float64."""
    new: dict[str, Tensor] = {}
    for name, offset, part in updates:
        parameter = module.get_parameter(name).detach().reshape(-1)
        exact = torch.complex128 if parameter.is_complex() else torch.float64
        flat = new.setdefault(name, parameter.to(exact, copy=True))
        flat[offset : offset + len(part)] += part.to(flat)
    found = [(module.get_parameter(name), flat) for name, flat in new.items()]
    return [(parameter, flat.view_as(parameter).to(parameter.dtype)) for parameter, flat in found]


@torch.no_grad()
def add_updates(module: nn.Module, updates: list[Update]) -> None:
    """Add to slices of a module's parameters."""
    for parameter, value in updated(module, updates):
        parameter.copy_(value)
