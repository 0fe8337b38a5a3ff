"""What tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch.compile as users have it: from nothing, and without this test run's checks of types."""
    # a conftest is loaded before types are checked, and so before relaxify may be
    from networks import unchecked

    with unchecked():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        yield
        torch._dynamo.reset()
