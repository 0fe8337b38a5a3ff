"""The terms' parameters and optimizers: apart from the model's own, with a learning rate of theirs, and without decay.

Weight decay pulls W to zero whatever the penalty says of it, which is the regulariser that is meant (CR eq. 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from relaxify.relaxation.pitfalls import check_is_optimizer
from relaxify.relaxation.real_numbers import is_finite
from relaxify.relaxation.terms.term import Term, terms_of

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""As optimizers take them: parameters, or pairs of name and parameter."""
Group = dict[str, Any]
"""A parameter group of an optimizer."""


def relaxation_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all terms, W or its factors, in the model's order, each once.

    RuntimeError if the model is not relaxed.

    >>> from relaxify import relaxify
    >>> model = relaxify(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), "C(4)")
    >>> [tuple(W.shape) for W in relaxation_parameters(model)]
    [(4, 9), (2, 36)]
    """
    return [parameter for _, parameter in _named(model)]


def param_groups(
    model: nn.Module,
    groups: Sequence[Group] | Parameters | None = None,
    *,
    terms_lr: float | None = None,
    weight_decay: float | None = 0.0,
    **options: Any,
) -> list[Group]:
    """Parameter groups for an optimizer: the model's own parameters, and after them the terms in one of their own.

    - `groups`: your own groups, parameters or pairs of name and parameter; the terms are taken out of them. By default all
      parameters of the model.
    - `terms_lr`: the terms' learning rate; by default the optimizer's.
    - `weight_decay`: the terms'; None is the optimizer's.
    - `options`: what else the terms' group shall have, such as `betas`.

    RuntimeError if the model is not relaxed.

    >>> import torch
    >>> from relaxify import relaxify
    >>> model = relaxify(nn.Sequential(nn.Conv2d(1, 4, 3)), "C(4)")
    >>> optimizer = torch.optim.AdamW(param_groups(model, terms_lr=1e-4), lr=1e-3, weight_decay=0.1)
    >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    [(2, 0.001, 0.1), (1, 0.0001, 0.0)]
    """
    terms = {id(parameter) for _, parameter in _named(model)}
    own = _as_groups(list(model.parameters()) if groups is None else groups)
    are_named = any(isinstance(entry, tuple) for group in own for entry in group["params"])
    rest = [{**group, "params": [entry for entry in group["params"] if id(_tensor(entry)) not in terms]} for group in own]
    return [*rest, _group(_named(model), are_named, terms_lr, weight_decay, options)]


def add_terms(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    terms_lr: float | None = None,
    weight_decay: float | None = 0.0,
    **options: Any,
) -> None:
    """Add the terms to an optimizer that was made before them, as a group; those that it holds already stay where they are.

    Options as of `param_groups`; `terms_lr` is by default what the first group has now.

    RuntimeError if the model is not relaxed; ValueError if a learning-rate scheduler was made of the optimizer before, as it
    has no rate for a further group, and for rates that are no numbers >= 0.

    >>> import torch
    >>> from relaxify import relaxify
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    >>> add_terms(optimizer, relaxify(model, "C(4)"))
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [2, 1]
    """
    check_is_optimizer(optimizer)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [(name, parameter) for name, parameter in _named(model) if id(parameter) not in held]
    if not missing:
        return
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        raise ValueError(
            "a learning-rate scheduler was made of this optimizer before, which has no rate for the terms' group; call "
            "add_terms first, or make the optimizer of param_groups(model)."
        )
    first = optimizer.param_groups[0]
    rate = float(first["lr"]) if terms_lr is None and "lr" in first else terms_lr
    optimizer.add_param_group(_group(missing, "param_names" in first, rate, weight_decay, options))


def print_trainable_parameters(model: nn.Module) -> None:
    """Print how many parameters are trained, of how many, and how many of them are the terms', which `project` takes away.

    RuntimeError if the model is not relaxed.

    >>> from relaxify import relaxify
    >>> print_trainable_parameters(relaxify(nn.Sequential(nn.Conv2d(1, 4, 3)), "C(4)"))
    trainable params: 76 || all params: 76 || trainable%: 100.0000 || relaxation params: 36 (gone after project)
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    terms = sum(parameter.numel() for _, parameter in _named(model))
    print(  # noqa: T201
        f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f} || "
        f"relaxation params: {terms:,} (gone after project)"
    )


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The terms' parameters with their names in the model."""
    if not terms_of(model):
        raise RuntimeError("the model has no relaxation terms to optimise; call relaxify(model, group) first.")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    terms: Iterable[Term] = terms_of(model).values()
    return [(names[id(parameter)], parameter) for term in terms for parameter in term.parameters()]


def _as_groups(groups: Sequence[Group] | Parameters) -> list[Group]:
    """What an optimizer takes, as groups whose parameters are lists."""
    entries: list[Any] = list(groups)
    whole = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    return [{**group, "params": _as_list(group["params"])} for group in whole]


def _as_list(parameters: Any) -> list[Any]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _tensor(entry: Tensor | tuple[str, Tensor]) -> Tensor:
    return entry[1] if isinstance(entry, tuple) else entry


def _group(
    terms: list[tuple[str, nn.Parameter]],
    are_named: bool,
    lr: float | None,
    weight_decay: float | None,
    options: dict[str, Any],
) -> Group:
    for name, value in (("terms_lr", lr), ("weight_decay", weight_decay)):
        if value is not None and not (is_finite(value) and value >= 0):
            raise ValueError(f"{name}={value!r}: a finite number >= 0, or None for the optimizer's.")
    chosen = {name: value for name, value in (("lr", lr), ("weight_decay", weight_decay)) if value is not None}
    return {"params": terms if are_named else [parameter for _, parameter in terms], **chosen, **options}
