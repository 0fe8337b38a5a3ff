"""Optimizer states: of the terms' parameters they are taken out, and the others are counted anew.

A state counts parameters and does not name them. What is known is their order, model.parameters()'s in each group, which is
that of the keys in a state dict, and the shapes of what is kept for each. A parameter is a term's if it is one in every
way in which the group's parameters can be among the keys in this order. Where that cannot be told, the state is left out.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.storages import TorchTensor
from relaxify.checkpoint.terms import is_term_key
from relaxify.checkpoint.tree import tensor_of
from relaxify.modules.hanging import key_of

Shape = tuple[int, ...]
# no parameters, in torch and e3nn
_BUFFERS = {"running_mean", "running_var", "num_batches_tracked", "n_averaged", "output_mask"}
# of a parameter's own shape or not, and said of each
_COUNTERS = {"step"}
_AVERAGES = ("shadow_params", "collected_params")
# lists of schedulers with an entry for each group
_PER_GROUP = {"base_lrs", "_last_lr", "min_lrs", "max_lrs", "lr_lambdas", "base_momentums", "max_momentums"}


@dataclass(frozen=True)
class Parameters:
    """What may be parameters in a state dict, in order: the places of each shape (None: of any), of terms and of others."""

    count: int
    terms: Mapping[Shape | None, Sequence[int]]
    others: Mapping[Shape | None, Sequence[int]]

    def after(self, place: int, shape: Shape | None) -> int:
        """The first place of this shape behind another; `count` if there is none."""
        return min(_after(places[shape], place, self.count) for places in (self.terms, self.others))

    def before(self, place: int, shape: Shape | None) -> int:
        """The last place of this shape in front of another; -1 if there is none."""
        return max(_before(places[shape], place) for places in (self.terms, self.others))

    def between(self, low: int, high: int, shape: Shape | None) -> set[bool]:
        """Whether terms (True), others (False) or both have this shape between two places."""
        ways = {True: self.terms[shape], False: self.others[shape]}
        return {of_terms for of_terms, places in ways.items() if _after(places, low, high) < high}


def _after(places: Sequence[int], place: int, end: int) -> int:
    index = bisect.bisect_right(places, place)
    return places[index] if index < len(places) else end


def _before(places: Sequence[int], place: int) -> int:
    index = bisect.bisect_left(places, place)
    return places[index - 1] if index else -1


def parameters_of(mapping: Mapping[Any, Any], plan: StatePlan | None) -> Parameters:
    """Of a state dict with terms, or of one without any."""
    terms = set() if plan is None else {key_of(t.prefix, name) for t in plan.terms for name in t.record.weight_keys}
    removed = set() if plan is None else {*plan.report.removed} - terms
    of_terms, of_others = (defaultdict[Shape | None, list[int]](list) for _ in range(2))
    first = {} if plan is None else _first_names(mapping, plan)
    seen: set[object] = set()
    count = 0
    for key, tensor in _tensors(mapping):
        known = {first.get(key, key), tensor.identity if tensor.view.size else key}
        if key in removed or seen & known or key.rpartition(".")[2] in _BUFFERS:
            continue
        seen |= known
        for shape in (tensor.view.shape, None):
            (of_terms if key in terms else of_others)[shape].append(count)
        count += 1
    return Parameters(count, of_terms, of_others)


def _first_names(mapping: Mapping[Any, Any], plan: StatePlan) -> dict[str, str]:
    """Of what has several names, the first: torch.distributed.checkpoint writes one memory under each of its names.

    A layer of several names has one record under all of them, and the same values.
    """
    first: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for term in plan.terms:
        names = [*term.record.base_shapes, *(key_of("", name) for name in term.record.weight_keys)]
        known = prefixes.setdefault(term.record.path, term.base_prefix)
        pairs = {f"{term.base_prefix}{name}": f"{known}{name}" for name in names}
        if known != term.base_prefix and all(_are_equal(mapping, *pair) for pair in pairs.items()):
            first |= pairs
    return first


def _are_equal(mapping: Mapping[Any, Any], key: str, other: str) -> bool:
    first, second = tensor_of(mapping.get(key)), tensor_of(mapping.get(other))
    if first is None or second is None:
        return first is second
    if (first.view.dtype, first.view.shape) != (second.view.dtype, second.view.shape):
        return False
    # what repeats its entries can be larger than memory
    if any(tensor.view.size > tensor.storage.read.size for tensor in (first, second)):
        return False
    return _bytes_of(first) == _bytes_of(second)


def _bytes_of(tensor: TorchTensor) -> bytearray:
    return tensor.view.row_by_row(tensor.storage.read).read()


def _tensors(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, TorchTensor]]:
    for key, value in mapping.items():
        tensor = tensor_of(value)
        if isinstance(key, str) and tensor is not None and tensor.view.dtype.is_floating_point:
            yield key, tensor


def without_terms(
    optimizer: dict[Any, Any], relaxed: Sequence[Parameters], plain: Sequence[Parameters], plans: Sequence[StatePlan]
) -> list[bool] | None:
    """Take the terms out of an optimizer state, in place; which groups stay, or None if it cannot be told.

    It may be of any of these state dicts, with terms or without, that are in the same file.
    """
    groups, state = optimizer.get("param_groups"), optimizer.setdefault("state", {})
    if (
        not isinstance(groups, list)
        or not groups
        or not all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    ):
        return None
    if not isinstance(state, dict):
        return None
    _count_in_numbers(state)
    named = [_by_name(group, plans) for group in groups]
    flags = [found for found in named if found is not None]
    if len(flags) < len(groups):
        shapes = [[_shape_of(state.get(index)) for index in group["params"]] for group in groups]
        told = [_by_place(shapes, parameters) for parameters in relaxed]
        if None not in itertools.chain(*shapes):
            told += [_by_place(shapes, parameters) for parameters in plain]
        ways = [found for found in told if found is not None]
        if len(groups) == 1 and not any(map(_has_tensors, state.values())) and ways:
            ways = [[_in_number(shapes[0], parameters)] for parameters in relaxed]
        if not ways or any(found != ways[0] or None in found for found in ways):
            return None
        flags = [found for found in ways[0] if found is not None]
    return _take_out(groups, state, flags, plans)


def _has_tensors(entry: Any) -> bool:
    return not isinstance(entry, dict) or any(tensor_of(value) is not None for value in entry.values())


def _in_number(shapes: Sequence[Shape | None], parameters: Parameters) -> list[bool] | None:
    """Which of them are terms', where there is nothing to tell one from another: as many as there are."""
    terms = len(parameters.terms[None])
    return [index < terms for index in range(len(shapes))] if terms < len(shapes) else None


def _count_in_numbers(state: dict[Any, Any]) -> None:
    """torch.distributed.checkpoint makes texts of the numbers that are keys."""
    if state and all(isinstance(key, str) and key.isdecimal() for key in state):
        entries = [(int(key), value) for key, value in state.items()]
        state.clear()
        state.update(entries)


def _by_name(group: Mapping[str, Any], plans: Sequence[StatePlan]) -> list[bool] | None:
    """Which of a group's parameters are terms', where it names them."""
    names = group.get("param_names", group["params"])
    if not isinstance(names, list) or len(names) != len(group["params"]) or not all(isinstance(n, str) for n in names):
        return None
    own = [key for plan in plans for key in plan.report.kept if is_term_key(key)]
    return [is_term_key(name) and not any(f".{key}".endswith(f".{name}") for key in own) for name in names]


def _by_place(groups: Sequence[Sequence[Shape | None]], parameters: Parameters) -> list[list[bool] | None] | None:
    """Group by group, which parameters are terms'; None for a group of which that cannot be told.

    None altogether if they are not these parameters.
    """
    found = [ways for shapes in groups if (ways := _ways(shapes, parameters)) is not None]
    if len(found) < len(groups):
        return None
    return [None if any(len(way) > 1 for way in ways) else [way == {True} for way in ways] for ways in found]


def _ways(shapes: Sequence[Shape | None], parameters: Parameters) -> list[set[bool]] | None:
    """What each of these, in order, may be: a term's, another's; None if they cannot be in this order among all."""
    first, last = [-1], [parameters.count]
    for shape in shapes:
        first.append(parameters.after(first[-1], shape))
    for shape in reversed(shapes):
        last.append(parameters.before(last[-1], shape))
    if first[-1] >= parameters.count and shapes:
        return None
    last.reverse()
    return [parameters.between(first[i], last[i + 1], shape) for i, shape in enumerate(shapes)]


def _shape_of(entry: Any) -> Shape | None:
    """A parameter's shape, which its averages and momenta have; None if nothing tells it."""
    if not isinstance(entry, dict):
        return None
    tensors = [tensor_of(value) for key, value in entry.items() if key not in _COUNTERS]
    shapes = {tensor.view.shape for tensor in tensors if tensor is not None}
    return shapes.pop() if len(shapes) == 1 else None


def _take_out(
    groups: list[dict[str, Any]], state: dict[Any, Any], flags: Sequence[Sequence[bool]], plans: Sequence[StatePlan]
) -> list[bool]:
    """Leave out what is flagged, and groups of nothing else; the rest is counted as a new optimizer would."""
    names = [[_new_name(old, plans) for old in group["params"]] for group in groups]
    if not any(map(any, flags)) and names == [group["params"] for group in groups]:
        return [True] * len(groups)
    stays = [not group["params"] or not all(of_terms) for group, of_terms in zip(groups, flags, strict=True)]
    new: dict[Any, Any] = {}
    for group, of_terms in zip(groups, flags, strict=True):
        kept = [index for index, of_term in enumerate(of_terms) if not of_term]
        if isinstance(group.get("param_names"), list):
            group["param_names"] = [_new_name(group["param_names"][index], plans) for index in kept]
        for old in [group["params"][index] for index in kept]:
            new[old] = _new_name(old, plans) if isinstance(old, str) else len(new)
        group["params"] = [new[group["params"][index]] for index in kept]
    entries = {new[old]: entry for old, entry in state.items() if old in new}
    groups[:] = [group for group, stay in zip(groups, stays, strict=True) if stay]
    state.clear()
    state.update(entries)
    return stays


def _new_name(old: Any, plans: Sequence[StatePlan]) -> Any:
    """What a parameter that is named has for a name once the prefixes are off."""
    return next((new for plan in plans if (new := plan.names.of(old)) is not None), old) if isinstance(old, str) else old


def average_without_terms(average: dict[Any, Any], relaxed: Sequence[Parameters]) -> list[str]:
    """Take the terms out of torch_ema's lists of parameters, or a list where it cannot be told which they are; its name."""
    lost = []
    for name in [name for name in _AVERAGES if average.get(name)]:
        tensors = [tensor_of(value) for value in average[name]] if isinstance(average[name], list) else [None]
        shapes = [tensor.view.shape for tensor in tensors if tensor is not None]
        told = [found for parameters in relaxed if (found := _by_place([shapes], parameters)) is not None]
        flags = told[0][0] if told and all(found == told[0] for found in told) else None
        if flags is None or len(shapes) < len(tensors):
            lost.append(name)
            del average[name]
        else:
            average[name][:] = [value for value, of_term in zip(average[name], flags, strict=True) if not of_term]
    return lost


def keep_groups(scheduler: dict[Any, Any], optimizers: Sequence[Sequence[bool]]) -> None:
    """Take what a learning rate scheduler keeps for groups that are gone out of it.

    `optimizers` say which groups stay; of two with as many groups, the scheduler may be either's.
    """
    for name in _PER_GROUP & scheduler.keys():
        values = scheduler[name]
        found = [stays for stays in optimizers if isinstance(values, list) and len(stays) == len(values)]
        if found and all(stays == found[0] for stays in found):
            scheduler[name] = [value for value, stay in zip(values, found[0], strict=True) if stay]
