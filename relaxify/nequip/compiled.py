"""What NequIP's `compile_mode: compile` traces: terms that act or not by other code, and sketches that are fed from outputs.

A trace runs each layer once on stand-ins for values, and what is compiled of it never again calls a term. So what a term
learns of its inputs travels through the model's outputs, where the terms of the model that is run can take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from relaxify.grids.convolution import Patches
from relaxify.relaxation.controllers.ace import ACE
from relaxify.relaxation.terms.term import Term, terms_of

_CACHES = "_relaxify_caches"
_OUTPUT = "relaxify."


def check_controller(model: nn.Module, controller: object) -> None:
    """ValueError for one that needs what compiled code does not have."""
    if isinstance(controller, ACE) and any(_compiled(model)):
        raise ValueError(
            "ACE learns from the loss's gradient by theta, which NequIP's compiled code leaves out; train with "
            "compile_mode: eager, or by a schedule."
        )


def _compiled(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if getattr(module, "is_compile_graph_model", False))


@contextmanager
def shown(model: nn.Module) -> Iterator[None]:
    """Within this context the terms of models that NequIP compiles learn from what these put out."""
    with ExitStack() as stack:
        for graph_model in _compiled(model):
            stack.enter_context(_shown(graph_model))
        yield


@contextmanager
def _shown(graph_model: nn.Module) -> Iterator[None]:
    terms = list(terms_of(graph_model).values())
    if not terms:
        yield
        return
    _choose_code(graph_model, terms)
    passing = _Passing(terms)
    hooks = [
        graph_model.model.register_forward_pre_hook(passing.begin),  # type: ignore[union-attr]
        graph_model.model.register_forward_hook(passing.put_out),  # type: ignore[union-attr]
        graph_model.register_forward_hook(passing.take),
    ]
    try:
        for term in terms:
            term.observer = passing.observe
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for term in terms:
            term.observer = None


def _choose_code(graph_model: nn.Module, terms: list[Term]) -> None:
    """NequIP keeps compiled code by the names of its inputs: of each set of acting terms, in a table of their own."""
    if not isinstance(getattr(graph_model, "_compiled_cache", None), tuple):
        raise ValueError(
            "this version of NequIP keeps its compiled code elsewhere than 0.19 does, so it cannot be told if that has the "
            "terms; train with compile_mode: eager."
        )
    caches: dict[tuple[bool, ...], Any] = vars(graph_model).setdefault(_CACHES, {})
    graph_model._compiled_cache = caches.setdefault(tuple(term.active for term in terms), ({},))


class _Passing:
    """What terms are shown in one forward pass, by way of the model's outputs."""

    def __init__(self, terms: list[Term]) -> None:
        self.terms = terms
        self.seen: dict[str, Tensor] = {}

    def begin(self, module: nn.Module, args: Any) -> None:
        self.seen = {}

    def observe(self, term: Term, rows: Tensor | Patches, output: Tensor | None, attribute: Tensor | None) -> None:
        index = next(index for index, other in enumerate(self.terms) if other is term)
        assert isinstance(rows, Tensor)
        # of the output only its size is wanted: as a square, whose gradient is finite where it is zero
        square = None if output is None else output.square().sum()
        found = {"rows": rows, "square": square, "attribute": attribute}
        call = len(self.seen)
        self.seen |= {f"{_OUTPUT}{index}.{call}.{name}": value for name, value in found.items() if value is not None}

    def put_out(self, module: nn.Module, args: Any, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**output, **self.seen}

    def take(self, module: nn.Module, args: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
        calls: dict[str, dict[str, Tensor]] = {}
        for key in [key for key in output if key.startswith(_OUTPUT)]:
            call, _, name = key.removeprefix(_OUTPUT).rpartition(".")
            calls.setdefault(call, {})[name] = output.pop(key).detach()
        for call, found in sorted(calls.items(), key=lambda item: int(item[0].partition(".")[2])):
            square = found.get("square")
            term = self.terms[int(call.partition(".")[0])]
            term.learn(found["rows"], None if square is None else square.sqrt(), found.get("attribute"))
        return output
