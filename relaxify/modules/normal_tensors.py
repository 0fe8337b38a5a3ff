"""Models are changed outside inference mode: a parameter that is made within it can never be trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def normal_tensors() -> Iterator[None]:
    """Within this context new tensors are ordinary ones, in `torch.inference_mode` too, as in validation hooks of trainers.

    >>> with torch.inference_mode(), normal_tensors():
    ...     torch.ones(1).is_inference()
    False
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    # leaving inference mode switches gradients on, which nobody has asked for
    with torch.inference_mode(False), torch.no_grad():
        yield
