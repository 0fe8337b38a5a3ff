"""What is made of parameters and buffers alone: by functions of them, or written piece by piece into what was blank.

Blank is what zeros, empty and their kin make. A state starts there too, and what is computed from blanks and parameters is
taken for one, unless parameters are put into places of the blank.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from relaxify.graph.contractions import FACTORIES, function_name
from relaxify.graph.recording import written

BLANKS = frozenset(
    f"{how}{what}{like}"
    for what in ("zeros", "ones", "empty", "full")
    for how, like in (("", ""), ("", "_like"), ("new_", ""))
) | {"empty_strided"}
"""Functions whose values do not depend on tensors: they make what may be written to."""

_PLACING = "__setitem__ index_put index_copy index_add index_fill scatter scatter_add masked_scatter slice_scatter copy put"
_PLACING += " select_scatter diagonal_scatter as_strided_scatter"
_JOINING = "cat concat concatenate hstack vstack dstack column_stack stack block_diag where __iadd__ __isub__ add_ sub_"
ASSEMBLING = frozenset([*_PLACING.split(), *(f"{name}_" for name in _PLACING.split()[1:]), *_JOINING.split()])
"""Functions that put pieces into places."""


_OPERATORS = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"]
_WRITING = frozenset({"__setitem__", *(f"__i{operator}__" for operator in _OPERATORS)})


def writes(name: str) -> bool:
    """Whether a function of this name writes to its first argument.

    >>> writes("copy_"), writes("__setitem__"), writes("__getitem__")
    (True, True, False)
    """
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


def is_blank(node: fx.Node) -> bool:
    """Whether a node makes what is blank."""
    return node.op == "call_function" and function_name(node.target) in BLANKS


def attributes_behind(
    nodes: Sequence[fx.Node], constants: Collection[fx.Node] = frozenset()
) -> dict[fx.Node, tuple[str, ...]]:
    """The parameters and buffers that a node's value is computed from, for nodes that are computed from nothing else.

    But for `constants`, which are neither, and for what is blank before pieces are put into it.
    """
    behind: dict[fx.Node, tuple[str, ...]] = {}
    blank: set[fx.Node] = set()
    for node in nodes:
        if node.op == "get_attr":
            behind[node] = (str(node.target),)
        elif node in constants:
            behind[node] = ()
        elif is_blank(node):
            blank.add(node)
        elif node.op == "call_function" and (node.all_input_nodes or function_name(node.target) in FACTORIES):
            sources = node.all_input_nodes
            if not all(source in behind or source in blank for source in sources):
                continue
            names = tuple(dict.fromkeys(name for source in sources for name in behind.get(source, ())))
            if blank.isdisjoint(sources) or (names and _assembles(node)):
                behind[node] = names
            elif not names:
                blank.add(node)
    return behind


def _assembles(node: fx.Node) -> bool:
    return node.target is written or function_name(node.target) in ASSEMBLING
