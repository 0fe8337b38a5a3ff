"""Types of arguments and results are checked in every test: shapes by jaxtyping, all else by beartype alone.

jaxtyping binds each call's arguments before it looks at them, which takes 13 us. Most functions, and those called most, have
no shapes in their signature, so that there is nothing to bind; without this their checks are most of what inspection costs.
Functions within functions are not checked: beartype would write and compile its checks again in every call of the outer one.

beartype checks some items of a list, which it draws from a stream of its own here: models that draw from Python's would else
run differently where types are checked.

Of each function the first calls of a test are checked, and then one in many: one inspection calls the same functions very
often, with arguments of the same few types, and checks of every call are a fifth or more of what it costs.
"""

from __future__ import annotations

import builtins
import inspect
import random
import re
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any, ForwardRef, Literal, ParamSpec, get_args, get_origin

import jaxtyping
from beartype._check.code import codemain
from jaxtyping import AbstractArray

FIRST, EVERY = 20, 50
"""How many calls of a function are checked in each test, and of those after them one in how many."""

codemain.getrandbits = random.Random(0).getrandbits
_with_shapes = jaxtyping.jaxtyped
_calls: dict[FunctionType, int] = {}


def begin() -> None:
    """A test begins: which calls are checked in it does not depend on those before."""
    _calls.clear()


def checked(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """In place of `jaxtyping.jaxtyped`, as its import hook uses it."""
    if function is None:
        return partial(checked, typechecker=typechecker)
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    if not isinstance(function, FunctionType):
        return _with_shapes(function, typechecker=typechecker)
    with_types = _with_shapes(function, typechecker=typechecker) if has_shapes(function) else typechecker(function)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        # first, for what is compiled without checks must not depend on how often it was called
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        calls = _calls[function] = _calls.get(function, 0) + 1
        return (with_types if calls <= FIRST or not calls % EVERY else function)(*args, **kwargs)

    # where the code of a model stands is read off the stack, from which the frames of jaxtyping are left out
    called.__code__ = called.__code__.replace(co_filename=jaxtyping.__file__)
    return called


def has_shapes(function: FunctionType) -> bool:
    """Whether a signature names an array with its shape, or anything that may be one: what is not defined yet, say."""
    annotations = " ".join(map(str, inspect.get_annotations(function).values()))
    known = vars(builtins) | function.__globals__
    return any(name not in known or _is_array(known[name]) for name in re.findall(r"(?<![\w.])[A-Za-z_]\w*", annotations))


def _is_array(annotation: Any) -> bool:
    if isinstance(annotation, list | tuple):
        return any(map(_is_array, annotation))
    if get_origin(annotation) is Literal:
        return False
    # beartype alone does not understand the arguments of a ParamSpec
    if isinstance(annotation, str | ForwardRef | ParamSpec) or getattr(annotation, "__module__", "") == "jaxtyping":
        return True
    return (inspect.isclass(annotation) and issubclass(annotation, AbstractArray)) or _is_array(get_args(annotation))
