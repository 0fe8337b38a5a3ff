"""Whether a loss depends on some parameters, told from its graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def depends_on(loss: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether backward from `loss` reaches one of the parameters.

    >>> import torch
    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> depends_on((a * b.detach()).sum(), [a]), depends_on((a * b.detach()).sum(), [b])
    (True, False)
    """
    wanted = {id(parameter) for parameter in parameters}
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in wanted:
            return True
        waiting += [before for before, _ in node.next_functions]
    return False
