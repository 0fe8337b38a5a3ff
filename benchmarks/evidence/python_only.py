"""e3nn's layers as Python, which `vmap` can go over: it would script them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import e3nn


@contextmanager
def as_python() -> Iterator[None]:
    """What is made within is not scripted."""
    defaults = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**defaults)
