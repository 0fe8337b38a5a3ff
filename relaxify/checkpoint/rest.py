"""What a torch.save file holds besides the tensors of its state dicts: names, and a few words on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relaxify.checkpoint.pickles import Call
from relaxify.checkpoint.tree import Where, children, tensor_of

LONGEST = 60
UNREAD = "what only code could read"


def rest_of(content: Any, state_dicts: set[Where], where: Where = ()) -> Iterator[tuple[str, str]]:
    """(name, what it is) of all that is not in these state dicts, each thing beside the way to them once."""
    leading = {way[: len(where) + 1] for way in state_dicts if way[: len(where)] == where and way != where}
    for key, child in children(content):
        below = (*where, key)
        if below in state_dicts or below in leading:
            yield from rest_of(child, state_dicts, below)
        elif where not in state_dicts or tensor_of(child) is None:
            yield ".".join(map(str, below)), in_words(child)


def in_words(value: Any) -> str:
    """A value, or of what is larger the kind and size.

    >>> in_words(3), in_words({"state": {0: {}}, "param_groups": []}), in_words([1, 2])
    ('3', 'the state of an optimizer (1 entries)', 'a list of 2')
    """
    if (tensor := tensor_of(value)) is not None:
        return f"a tensor, {str(tensor.view.dtype).removeprefix('torch.')} {list(tensor.view.shape)}"
    if isinstance(value, dict):
        if {"state", "param_groups"} <= value.keys() and isinstance(value["state"], dict):
            return f"the state of an optimizer ({len(value['state'])} entries)"
        return f"a dictionary of {len(value)}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Call):
        return str(value.function)
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
