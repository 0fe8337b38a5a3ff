"""What torch.save wrote, as data: where the state dicts with terms are, where the optimizer states, and what is a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from relaxify.checkpoint.pickles import Call, Global
from relaxify.checkpoint.pickling import MAX_DEPTH
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.state import StateDict, Stored
from relaxify.checkpoint.storages import TorchTensor, made_tensor, rebuilt
from relaxify.checkpoint.terms import is_term_key
from relaxify.record import CheckpointError

Where = tuple[Any, ...]


@dataclass(frozen=True)
class Nested:
    """What a walk over a checkpoint finds: mappings that hold terms' keys, or tensors; parents of optimizer states.

    `schedulers` are the states of learning rate schedulers, `averages` those of torch_ema, which are lists of parameters.
    """

    state_dicts: list[tuple[MutableMapping[Any, Any], Where]] = field(default_factory=list)
    weights: list[tuple[MutableMapping[Any, Any], Where]] = field(default_factory=list)
    optimizers: list[tuple[Any, Where]] = field(default_factory=list)
    schedulers: list[dict[Any, Any]] = field(default_factory=list)
    averages: list[tuple[dict[Any, Any], Where]] = field(default_factory=list)


def name_of(where: Where) -> str:
    """How a place in a checkpoint is called."""
    return ".".join(map(_key_name, where))


def _key_name(key: Any) -> str:
    if isinstance(key, tuple):
        return f"({', '.join(map(_key_name, key))})"
    return f"<{key}>" if isinstance(key, Call) else str(key)


def walk(checkpoint: Any) -> Nested:
    """Find the state dicts and the optimizer states, each object once, in the order they come."""
    found = Nested()
    seen: set[int] = set()
    pending: list[tuple[Any, Where]] = [(checkpoint, ())]
    while pending:
        item, where = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if len(where) > MAX_DEPTH:
            raise CheckpointError(f"it is nested in more than {MAX_DEPTH} levels; save the model's state_dict alone.")
        if isinstance(item, dict) and item:
            _note(item, where, found)
        inner = [(key, child) for key, child in children(item) if isinstance(child, _CONTAINERS)]
        found.optimizers.extend((item, (*where, key)) for key, child in inner if _is_optimizer_state(child))
        pending.extend((child, (*where, key)) for key, child in reversed(inner) if not _is_optimizer_state(child))
    return found


_CONTAINERS = (dict, list, tuple, Call)


def _note(item: dict[Any, Any], where: Where, found: Nested) -> None:
    tensors = [key for key, value in item.items() if tensor_of(value) is not None]
    if any(isinstance(key, str) and is_term_key(key) for key in tensors):
        found.state_dicts.append((item, where))
    if len(tensors) == len(item):
        found.weights.append((item, where))
    if "_last_lr" in item or "base_lrs" in item:
        found.schedulers.append(item)
    if isinstance(item.get("shadow_params"), list):
        found.averages.append((item, where))


def children(item: Any) -> Iterator[tuple[Any, Any]]:
    """What lies in a value, under its keys."""
    if isinstance(item, dict):
        yield from item.items()
    elif isinstance(item, list | tuple):
        yield from enumerate(item)
    elif isinstance(item, Call):
        yield from item.items.items()
        yield from enumerate((item.arguments, item.appended, item.state))


def tensor_of(value: Any) -> TorchTensor | None:
    """The tensor that a value is, a parameter's too, or one's with attributes; None if it is another thing."""
    if isinstance(value, Call) and value.function in _PARAMETERS and value.arguments:
        value = value.arguments[0]
    elif isinstance(value, Call) and value.function == FROM_TYPE and len(value.arguments) == 4:
        rebuild, _, arguments, _ = value.arguments
        value = rebuilt(Call(rebuild, arguments)) if isinstance(arguments, tuple) else None
    return value if isinstance(value, TorchTensor) else None


FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
_PARAMETERS = {PARAMETER, Global("torch._utils", "_rebuild_parameter_with_state")}


def optimizer_at(parent: Any, key: Any) -> dict[Any, Any]:
    """The optimizer state that is under a key of what `walk` noted as its parent."""
    found: dict[Any, Any] = dict(children(parent))[key]
    return found


def leave_out_optimizer(parent: Any, key: Any) -> None:
    """Take it out; places of a tuple stay, empty."""
    if isinstance(parent, dict | list):
        del parent[key]
    elif isinstance(parent, tuple):
        parent[key].clear()
    else:
        parent.items.pop(key, None)


def _is_optimizer_state(item: Any) -> bool:
    if not isinstance(item, dict) or "param_groups" not in item:
        return False
    groups = item["param_groups"]
    return "state" in item or (isinstance(groups, list) and all(isinstance(g, dict) and "params" in g for g in groups))


def others(checkpoint: Any, where: Where) -> Iterator[str]:
    """The names of everything in a checkpoint except what lies at `where`."""
    item = checkpoint
    for depth, key in enumerate(where):
        inner = dict(children(item))
        yield from (".".join(map(str, (*where[:depth], other))) for other in inner if other != key)
        item = inner[key]


def state_dict_of(mapping: Mapping[Any, Any], where: Where, file_size: int) -> StateDict:
    """A state dict whose tensors are still in the file; entries that are not tensors are ignored."""
    tensors = {
        key: tensor for key, value in mapping.items() if isinstance(key, str) and (tensor := tensor_of(value)) is not None
    }
    first: dict[tuple[object, ...], str] = {}
    same_as = {key: first.setdefault(tensor.identity, key) for key, tensor in tensors.items() if tensor.view.size}
    shapes = {key: tensor.view.shape for key, tensor in tensors.items()}
    return StateDict(shapes, lambda key: tensors[key].load(), lambda key: _stored(tensors[key]), where, same_as, file_size)


def _stored(tensor: TorchTensor) -> Stored:
    view = tensor.view
    return Stored(str(view.dtype).removeprefix("torch."), view.row_by_row(tensor.storage.read))


def clean_state_dict(mapping: MutableMapping[Any, Any], plan: StatePlan) -> None:
    """Take off what the plan removes, and give what stays its new name."""
    removed = {*plan.report.removed, *plan.left_out}
    kept = {_new_name(key, plan): value for key, value in mapping.items() if key not in removed}
    mapping.clear()
    mapping.update(plan.with_added(kept, made_tensor))
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, dict):
        _clean_metadata(metadata, plan)


def _new_name(key: Any, plan: StatePlan) -> Any:
    return plan.names.of(key) or key if isinstance(key, str) else key


def _clean_metadata(metadata: MutableMapping[Any, Any], plan: StatePlan) -> None:
    """The module versions that state_dict() notes, without the terms' modules and under the new names."""
    modules = set().union(*(term.modules() for term in plan.terms))
    entries = [(key, value) for key, value in metadata.items() if key not in modules]
    metadata.clear()
    for key, value in entries:
        if (new := plan.names.of(f"{key}.")) is not None:
            metadata[new[:-1]] = value
