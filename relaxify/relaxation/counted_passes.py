"""Which forward passes feed the sketches: those that the user trains on, each once.

Activation checkpointing runs a forward pass twice, function transforms run it on stand-ins, and neither may count twice.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import CheckpointFunction

from relaxify.relaxation.callers import is_within


def is_counted() -> bool:
    """Whether the pass that is running now is one to learn the inputs from.

    - Not without gradients, unless reentrant checkpointing turned them off for its first pass.
    - Not in a functorch transform, and not in the second pass of checkpointing, which runs within backward.

    >>> is_counted()
    True
    >>> with torch.no_grad():
    ...     is_counted()
    False
    """
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._current_graph_task_id() != -1:
        return False
    # without gradients nothing is trained, so few passes pay for the look
    return torch.is_grad_enabled() or is_within(CheckpointFunction.forward)
