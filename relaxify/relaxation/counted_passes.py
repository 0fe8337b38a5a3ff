"""Which forward passes feed the sketches: those that the user trains on, each once.

Activation checkpointing runs a forward pass twice, which may not count twice. A function transform of the whole model looks
at it, and trains nothing; one that the model makes itself, of an energy to forces, is a part of its forward pass.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import CheckpointFunction

from relaxify.relaxation.callers import is_transform_of_a_module, is_within
from relaxify.relaxation.transformed import is_transformed


def is_counted() -> bool:
    """Whether the pass that is running now is one to learn the inputs from.

    - Not without gradients, unless reentrant checkpointing turned them off for its first pass.
    - Not in a transform of torch.func that began outside of all modules, and not in the second pass of checkpointing, which
      runs within backward.

    >>> is_counted()
    True
    >>> with torch.no_grad():
    ...     is_counted()
    False
    """
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    if torch._C._current_graph_task_id() != -1:
        return False
    if is_transformed() and not is_transform_of_a_module():
        return False
    # without gradients nothing is trained, so few passes pay for the look
    return torch.is_grad_enabled() or is_within(CheckpointFunction.forward)
