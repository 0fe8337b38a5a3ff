"""What wrappers put before the keys of a state dict, and into them, and what is taken off on the way to the plain model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relaxify.record import CheckpointError

# DataParallel, DDP and averages of weights, torch.compile, Opacus, FSDP, Accelerate's and DeepSpeed's, Lightning modules
WRAPPERS = ("module.", "_orig_mod.", "_module.", "_fsdp_wrapped_module.", "_forward_module.", "model.")
# before any module within the model
INNER = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
# what averages of weights keep beside the model's keys
BESIDE = ("n_averaged",)


@dataclass(frozen=True)
class Names:
    """The new names of the keys of a state dict: without `prefix`, and without wrappers' names within if `inner`."""

    prefix: str = ""
    inner: bool = False

    def of(self, key: str) -> str | None:
        """A key's new name; None if it is not the plain model's.

        >>> Names("module.", inner=True).of("module.net._orig_mod.weight"), Names("module.").of("n_averaged")
        ('net.weight', None)
        """
        if not key.startswith(self.prefix):
            return None
        new = key.removeprefix(self.prefix)
        for wrapper in INNER if self.inner else ():
            new = f".{new}".replace(f".{wrapper}", ".")[1:]
        return new


def wrapper_prefix(keys: Iterable[str]) -> str:
    """The wrappers' prefixes that all keys have in common.

    >>> wrapper_prefix(["module._orig_mod.lin.weight", "module._orig_mod.lin.bias"])
    'module._orig_mod.'
    """
    keys, prefix = list(keys), ""
    while step := next((w for w in WRAPPERS if keys and all(key.startswith(prefix + w) for key in keys)), ""):
        prefix += step
    return prefix


def without_wrappers(keys: Sequence[str], terms: Sequence[str]) -> Names:
    """The names without the wrappers that all keys have in common, of which `terms` are those where a term is.

    CheckpointError if only some keys have them: whether the others are the model's too cannot be told.
    """
    own = [key for key in keys if key not in BESIDE]
    found = Names(wrapper_prefix(own), inner=True)
    if not found.prefix and (wanted := wrapper_prefix(terms)):
        others = [key for key in own if not key.startswith(wanted)]
        more = f" and {len(others) - 1} more do" if len(others) > 1 else " does"
        raise CheckpointError(
            f"the terms' keys begin with {wanted!r}, and {others[0]!r}{more} not, so it cannot be told whether that is a "
            f"wrapper's; give the prefix {wanted!r} to keep only what is below it."
        )
    return found


def changes_none(names: Names, keys: Iterable[str]) -> bool:
    """Whether every key stays as it is."""
    return all(names.of(key) == key for key in keys)
