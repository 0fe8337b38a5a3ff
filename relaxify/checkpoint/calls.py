"""What is made of the calls in a pickle of other libraries' functions: numbers of numpy's; and which are no checkpoint's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from relaxify.checkpoint.pickles import Call, Global
from relaxify.record import CheckpointError

_SCALARS = {Global(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}
_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
# nothing that a program keeps beside its weights is made by these: whoever wrote such a file meant harm
_HARMFUL_MODULES = {"os", "posix", "nt", "subprocess", "sys", "pty", "shutil", "socket", "importlib", "runpy", "ctypes"}
_HARMFUL = {"eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"}


def check_harmless(call: Call) -> None:
    """CheckpointError for a call that only an attack would make; no call is ever carried out."""
    function = call.function
    if not isinstance(function, Global):
        return
    package = function.module.partition(".")[0]
    if package in _HARMFUL_MODULES or (package in ("builtins", "__builtin__") and function.name in _HARMFUL):
        raise CheckpointError(
            f"reading it would run code ({function}), which convert never does; save the model's state_dict alone."
        )


def number_of(call: Call) -> Any:
    """The number that a call makes, if it makes one of numpy's from its bytes; any other call as it is."""
    if call.function not in _SCALARS or len(call.arguments) != 2:
        return call
    kind, data = call.arguments
    if not isinstance(kind, Call) or kind.function != Global("numpy", "dtype") or not isinstance(data, bytes):
        return call
    name, order = kind.arguments[:1], _order(kind)
    if not (name and isinstance(name[0], str) and _NUMBER.fullmatch(name[0])):
        return call
    dtype = np.dtype(order + name[0])
    return np.frombuffer(data, dtype)[0].item() if len(data) == dtype.itemsize else call


def _order(kind: Call) -> str:
    """Whether the bytes of a dtype are little-endian, which its state says."""
    (state,) = kind.state or ((),)
    return ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"
