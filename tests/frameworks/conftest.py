"""Frameworks set what is global: each test module leaves it as it was, for tests that come after in the same process."""

from __future__ import annotations

from collections.abc import Iterator

import e3nn
import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _nothing_global_stays_set() -> Iterator[None]:
    dtype, defaults = torch.get_default_dtype(), dict(e3nn.get_optimization_defaults())
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.set_default_dtype(dtype)
    e3nn.set_optimization_defaults(**defaults)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
