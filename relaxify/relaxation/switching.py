"""Switching the terms on or off for a while, and setting theta."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from relaxify.relaxation.terms.term import terms_of


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
    before = [term.forced for term in terms]
    for term in terms:
        term.forced = value
    try:
        yield
    finally:
        for term, forced in zip(terms, before, strict=True):
            term.forced = forced


@torch.no_grad()
def set_theta(model: nn.Module, value: float) -> None:
    """Set theta of every term: a buffer, so that moving it recompiles nothing.

    RuntimeError if the model is not relaxed; ValueError if the value is not finite.
    """
    terms = terms_of(model)
    if not terms:
        raise RuntimeError("the model has no relaxation terms whose theta to set; call relaxify(model, group) first.")
    if not math.isfinite(value):
        raise ValueError(f"set_theta(model, {value}): theta is a finite number; 0 switches the terms off.")
    for term in terms.values():
        term.theta.fill_(value)
