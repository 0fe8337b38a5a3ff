"""Every model of the zoo runs, is equivariant, and does what its entry says of its linear ops."""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from relaxify.testing import elements
from zoo import ENTRIES
from zoo.entry import Inputs, call, default_dtype, equivariance_error, flat

each_model = pytest.mark.parametrize("name", ENTRIES)


@functools.cache
def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Inputs]:
    return ENTRIES[name].build(dtype)


@each_model
def test_model_commutes_with_its_group(name):
    entry, (model, x) = ENTRIES[name], built(name)
    assert equivariance_error(entry, model, x) < entry.tolerance


@each_model
def test_copy_computes_the_same(name):
    entry, (model, x) = ENTRIES[name], built(name)
    assert torch.equal(flat(call(entry, copy.deepcopy(model), x)), flat(call(entry, model, x)))


@each_model
def test_gradients_reach_the_sites(name):
    entry, (model, x) = ENTRIES[name], built(name, torch.float32)
    model.train()
    outputs = [leaf for leaf in tree_leaves(entry.call(model, x)) if isinstance(leaf, Tensor)]
    assert {leaf.dtype for leaf in outputs} == {torch.float32} | ({torch.float64} if entry.also_double else set())
    assert all(leaf.isfinite().all() for leaf in outputs)
    sum(leaf.square().sum() for leaf in outputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    reached = {path for path in entry.expected if any(p.grad is not None and p.grad.any() for p in owned(model, path))}
    assert entry.expected - reached == set(entry.without_effect)


def owned(model: nn.Module, path: str) -> list[nn.Parameter]:
    """The parameter of that name, or those of the module at that path."""
    parameters = dict(model.named_parameters())
    return [parameters[path]] if path in parameters else list(model.get_submodule(path).parameters(recurse=False))


def learned_matrices(model: nn.Module) -> set[str]:
    """Names of all parameters that may mix channels: matrices, larger ones unless they only scale, and e3nn's flat ones."""
    found = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            matrix = parameter.ndim == 2 or sum(size > 1 for size in parameter.shape) > 1
            if (matrix and not isinstance(module, nn.Embedding)) or hasattr(module, "weight_numel"):
                found.add(f"{path}.{name}".lstrip("."))
    return found


@each_model
def test_entry_speaks_of_every_learned_matrix_once(name):
    entry, (model, _) = ENTRIES[name], built(name)
    read = [*entry.expected, *entry.invariant, *entry.impossible, *entry.features]
    assert len(read) == len(set(read))
    assert set(entry.without_effect) <= entry.expected
    known = set(dict(model.named_parameters())) | set(dict(model.named_modules()))
    assert set(read) <= known
    unread = {
        parameter for parameter in learned_matrices(model) if not {parameter, parameter.rpartition(".")[0]} & set(read)
    }
    assert not unread


def _by_id(values: Any) -> dict[int, Tensor]:
    """The tensors in there; an object's identity is its id only while it lives."""
    return {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


class Operands(TorchFunctionMode):
    """Collects all that each op reads and returns: a module by its hooks, a Parameter by the functions it is passed to."""

    def __init__(self, model: nn.Module, paths: frozenset[str], inputs: Inputs) -> None:
        super().__init__()
        self.moving = _by_id(inputs)
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        parameters = dict(model.named_parameters())
        self.weights = {id(parameters[path]): (path, parameters[path]) for path in paths & set(parameters)}
        self.handles = [
            model.get_submodule(path).register_forward_hook(functools.partial(self._hook, path))
            for path in paths - set(parameters)
        ]

    def _hook(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        self._keep(path, (args, output))

    def _keep(self, path: str, values: Any) -> None:
        self.seen[path] += [leaf.detach().clone() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        paths = {self.weights[id(tensor)][0] for tensor in tensors if id(tensor) in self.weights}
        features = [tensor for tensor in tensors if id(tensor) in self.moving]
        for path in paths:
            if features:
                self._keep(path, (features, output))
            else:  # a weight still, scaled, reshaped or mixed with constants
                self.weights |= {id(leaf): (path, leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)}
        if features:
            self.moving |= _by_id(output)
        return output

    def __exit__(self, *exception: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*exception)


@each_model
def test_sites_transform_and_the_others_do_not(name):
    entry, (model, x) = ENTRIES[name], built(name)
    paths = entry.expected | entry.invariant

    def values(inputs: Inputs) -> dict[str, list[Tensor]]:
        # a copy, as some models set flags on their inputs
        copied = copy.deepcopy(inputs)
        with Operands(model, paths, copied) as operands, default_dtype(torch.float64):
            entry.call(model, copied)
        return operands.seen

    before = values(x)
    assert set(before) == paths
    # of a finite group, one may be drawn that moves nothing
    for g in (g for g in elements(entry.group) if not torch.equal(g, torch.eye(len(g), dtype=g.dtype))):
        after = values(entry.transform(g, x))
        moving = {path for path in paths if not same(before[path], after[path], entry.tolerance)}
        assert not moving & entry.invariant
        still = {path for path in entry.expected - moving if not declared_irreps(model, path)}
        assert still <= set(entry.without_effect)


def declared_irreps(model: nn.Module, path: str) -> bool:
    """Whether an e3nn layer reads or returns more than invariants, by its type; without a path there, values are zero."""
    layer = dict(model.named_modules()).get(path)
    irreps = [getattr(layer, name, ()) for name in ("irreps_in", "irreps_in1", "irreps_out")]
    return any(str(ir) != "0e" for each in irreps for _, ir in each)


def same(before: list[Tensor], after: list[Tensor], tolerance: float) -> bool:
    pairs = zip(before, after, strict=True)
    return all((a - b).norm() <= 100 * tolerance * a.norm() for a, b in pairs if a.is_floating_point() or a.is_complex())
