"""The broken models run and break their groups, and in all models written here each op reads what its entry says.

Stricter than "it changes with the input": what an equivariant op reads transforms by an isometry on one of its axes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from relaxify.testing import elements
from zoo import deepsets, equiformer, gvp, painn, segnn, tensornet, vn_dgcnn, vn_pointnet, vn_transformer_like
from zoo.broken import BROKEN
from zoo.entry import Entry, Inputs, default_dtype, equivariance_error, flat

FAMILIES = (deepsets, equiformer, gvp, painn, segnn, tensornet, vn_dgcnn, vn_pointnet, vn_transformer_like)
SOUND = {entry.name: entry for family in FAMILIES for entry in family.ENTRIES}
ALL = SOUND | {name: case.entry for name, case in BROKEN.items()}
E3NN = (o3.Linear, o3.TensorProduct, o3.FullyConnectedTensorProduct)

each_model = pytest.mark.parametrize("name", ALL)
each_broken_model = pytest.mark.parametrize("name", BROKEN)


@functools.cache
def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Inputs]:
    return ALL[name].build(dtype, seed=3)


@each_broken_model
def test_broken_model_does_not_commute_with_its_group(name):
    assert 1e-5 < equivariance_error(ALL[name], *built(name)) < float("inf")


@each_broken_model
def test_fault_is_a_module_of_a_sound_model(name):
    case, (model, _) = BROKEN[name], built(name)
    assert case.sound in SOUND.values()
    assert case.where in dict(model.named_modules())


@each_broken_model
def test_broken_model_trains_in_single_precision(name):
    entry, (model, x) = ALL[name], built(name, torch.float32)
    model = copy.deepcopy(model).train()
    y = entry.call(model, x)
    assert all(leaf.dtype == torch.float32 and leaf.isfinite().all() for leaf in tree_leaves(y))
    sum(leaf.square().sum() for leaf in tree_leaves(y)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    ops = learned(model)
    reached = {path for path in ops if any(p.grad is not None and p.grad.any() for p in ops[path].values())}
    assert entry.expected - reached == set(entry.without_effect)


@each_broken_model
def test_copy_of_a_broken_model_computes_the_same(name):
    entry, (model, x) = ALL[name], built(name)
    assert torch.equal(flat(entry.call(copy.deepcopy(model), x)), flat(entry.call(model, x)))


def learned(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Every op with a matrix to learn, by its path: e3nn's layers, nn.Linears, and Parameters of more than one axis."""
    found: dict[str, dict[str, nn.Parameter]] = {}
    for path, module in model.named_modules():
        if isinstance(module, E3NN):
            if module.weight_numel:
                found[path] = dict(module.named_parameters(recurse=False))
        elif isinstance(module, nn.Linear):
            found[path] = {"weight": module.weight}
        elif not isinstance(module, nn.Embedding):
            matrices = {name: p for name, p in module.named_parameters(recurse=False) if p.ndim > 1}
            found |= {f"{path}.{name}".lstrip("."): {name: p} for name, p in matrices.items()}
    return found


@each_broken_model
def test_reading_of_a_broken_model_is_complete_and_counts_nothing_twice(name):
    case, entry = BROKEN[name], ALL[name]
    read = [*entry.expected, *entry.invariant, *entry.impossible, *case.spoilt]
    assert len(read) == len(set(read))
    assert set(read) == set(learned(built(name)[0])) - {case.where}
    assert entry.expected


class _Arguments(TorchFunctionMode):
    """Collects what each Parameter is multiplied with."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.seen: dict[str, list[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for name in (self.names[id(t)] for t in tensors if id(t) in self.names):
            self.seen.setdefault(name, []).extend(t.detach() for t in tensors if not isinstance(t, nn.Parameter))
        return func(*args, **(kwargs or {}))


@contextmanager
def _hooks(model: nn.Module, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collects the inputs of e3nn's layers."""

    def hook(path: str) -> Any:
        return lambda module, args: seen.setdefault(path, []).append(args[0].detach())

    handles = [m.register_forward_pre_hook(hook(path)) for path, m in model.named_modules() if isinstance(m, E3NN)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def arguments(entry: Entry, model: nn.Module, x: Inputs) -> dict[str, list[Tensor]]:
    """What each learned op of the model reads."""
    ops = learned(model)
    names = {id(p): path for path, owned in ops.items() if not _is_e3nn(model, path) for p in owned.values()}
    with _Arguments(names) as mode, _hooks(model, mode.seen):
        entry.call(model, x)
    return {path: mode.seen[path] for path in ops}


def _is_e3nn(model: nn.Module, path: str) -> bool:
    return isinstance(dict(model.named_modules()).get(path), E3NN)


def is_invariant(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(before, after, strict=True))


def transforms(model: nn.Module, path: str, g: Tensor, before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether a matrix on an axis, or on two adjacent ones, carries all that the op reads at x to what it reads at g x."""
    pairs = list(zip(before, after, strict=True))
    if not _is_e3nn(model, path):
        return all(_is_fitted(a, b) for a, b in pairs)
    layer = model.get_submodule(path)
    irreps = layer.irreps_in if isinstance(layer, o3.Linear) else layer.irreps_in1
    with default_dtype(torch.float64):  # e3nn's Wigner matrices are exact in that alone
        matrix = irreps.D_from_matrix(g)
    return all(torch.allclose(a @ matrix.mT, b, rtol=1e-9, atol=1e-9) for a, b in pairs)


def _is_fitted(before: Tensor, after: Tensor) -> bool:
    spans = [(axis, axis) for axis in range(before.ndim)] + [(axis, axis + 1) for axis in range(before.ndim - 1)]
    return any(_residual(*(_rows(x, *span) for x in (before, after))) < 1e-9 for span in spans)


def _rows(x: Tensor, first: int, last: int, most: int = 300) -> Tensor:
    x = x.flatten(first, last).movedim(first, -1)
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: len(rows) // most + 1]


def _residual(before: Tensor, after: Tensor) -> float:
    """Of a least squares fit by a partial isometry; infinite for a larger axis than any here, and for too few rows.

    An invertible linear map W in a wrong place leaves values that transform by W g W^-1: no isometry.
    """
    if before.shape[1] > 9 or len(before) < 2 * before.shape[1]:
        return float("inf")
    matrix = torch.linalg.pinv(before, rtol=1e-9) @ after
    gram = matrix @ matrix.mT
    return float((before @ matrix - after).norm() / after.norm() + (gram @ gram - gram).norm())


@each_model
def test_ops_read_what_a_person_says_they_read(name):
    entry, (model, x) = ALL[name], built(name)
    before = arguments(entry, model, x)
    spoilt = BROKEN[name].spoilt if name in BROKEN else frozenset()
    broken_by_some: set[str] = set()
    for g in elements(entry.group):
        after = arguments(entry, model, entry.transform(g, x))
        same = {path for path in before if is_invariant(before[path], after[path])}
        moving = {path for path in before if _is_e3nn(model, path) or path not in same}
        moving = {path for path in moving if transforms(model, path, g, before[path], after[path])}
        assert entry.invariant <= same
        assert entry.expected <= moving
        broken_by_some |= spoilt - same - moving
    assert broken_by_some == spoilt
