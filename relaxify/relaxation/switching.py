"""Switching the terms on or off for a while, and setting theta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from relaxify.interrupts import completed
from relaxify.modules.patterns import Pattern, check_patterns, matches, patterns_of
from relaxify.relaxation.real_numbers import is_real
from relaxify.relaxation.terms.copied import follow, note_set
from relaxify.relaxation.terms.term import Term, owned_terms, terms_of


@contextmanager
def relaxed(model: nn.Module) -> Iterator[None]:
    """Within this context the terms act, in `train()` and in `eval()`. Nests; restores on error.

    RuntimeError if the model is not relaxed.
    """
    if not terms_of(model):
        raise RuntimeError("the model has no relaxation terms to switch on; call relaxify(model, group) first.")
    with _forced(model, True):
        yield


@contextmanager
def projected(model: nn.Module) -> Iterator[None]:
    """Within this context the model computes its equivariant part alone, as after `project`. Nests; restores on error."""
    with _forced(model, False):
        yield


@contextmanager
def _forced(model: nn.Module, value: bool) -> Iterator[None]:
    terms = list(terms_of(model).values())
    follow(terms)
    before = [term.forced for term in terms]
    try:
        _force(terms, [value] * len(terms))
        yield
        _force(terms, before)
    except BaseException:
        completed(lambda: _force(terms, before))
        raise


def _force(terms: Sequence[Term], values: Sequence[bool | None]) -> None:
    for term, value in zip(terms, values, strict=True):
        term.forced = value


def set_theta(model: nn.Module, value: float | Mapping[Pattern, float] | Mapping[str, float]) -> None:
    """Set theta of every term, or of the layers that patterns select: a buffer, so that moving it recompiles nothing.

    Of several patterns that select a layer the last one counts; layers that none selects keep their theta.

    RuntimeError if the model is not relaxed; ValueError if a value is not finite, or a pattern selects no relaxed layer.

        set_theta(model, {"*": 0.0, "layers.0": 1.0})
    """
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms whose theta to set; call relaxify(model, group) first.")
    values = dict.fromkeys(terms, value) if not isinstance(value, Mapping) else _by_path(model, terms, value)
    for number in values.values():
        if not is_theta(number):
            raise ValueError(f"set_theta(model, {number!r}): theta is a finite number; 0 switches the terms off.")
    set_each(terms, values)


def is_theta(value: object) -> bool:
    """Whether it is a number, and finite in single precision too."""
    return is_real(value) and abs(float(value)) <= torch.finfo(torch.float32).max


def set_each(terms: Mapping[str, Term], values: Mapping[str, float]) -> None:
    """Set theta of terms by their very paths: of all of them, if this is interrupted too."""
    completed(lambda: _fill(terms, values))


@torch.no_grad()
def _fill(terms: Mapping[str, Term], values: Mapping[str, float]) -> None:
    for path, number in values.items():
        terms[path].theta.fill_(number)
        terms[path].finished = False
        terms[path].moves += 1
        note_set(terms[path])


def _by_path(model: nn.Module, terms: Mapping[str, Term], wanted: Mapping[Any, float]) -> dict[str, float]:
    layers = {path: model.get_submodule(owner) for path, (owner, _) in zip(terms, owned_terms(model), strict=True)}
    check_patterns({"set_theta": patterns_of("set_theta", wanted)}, list(layers.items()))
    return {
        path: number for pattern, number in wanted.items() for path, layer in layers.items() if matches(pattern, path, layer)
    }


def thetas(model: nn.Module) -> dict[str, float]:
    """theta of every term, by path. RuntimeError if the model is not relaxed."""
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms whose theta to tell; call relaxify(model, group) first.")
    follow(terms.values())
    return {path: float(term.theta) for path, term in terms.items()}


def end_terms(model: nn.Module) -> None:
    """theta = 0 for good: from here on the terms neither compute nor sketch, until somebody sets theta again."""
    completed(lambda: _end(list(terms_of(model).values())))


@torch.no_grad()
def _end(terms: Sequence[Term]) -> None:
    for term in terms:
        if not term.finished:
            term.theta.zero_()
            term.finished = True
            term.moves += 1
            note_set(term)
