"""What wrappers put before the keys of a state dict, and into them, and what is taken off on the way to the plain model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from relaxify.record import CheckpointError

# DataParallel, DDP and averages of weights, torch.compile, Opacus, FSDP, Accelerate's and DeepSpeed's, Lightning modules
WRAPPERS = ("module.", "_orig_mod.", "_module.", "_fsdp_wrapped_module.", "_forward_module.", "model.")
# before any module within the model
INNER = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")
# what averages of weights keep beside the model's keys
BESIDE = ("n_averaged",)


@dataclass(frozen=True)
class Names:
    """The new names of the keys of a state dict: without wrappers' names within if `inner`, and without `prefix`."""

    prefix: str = ""
    inner: bool = False

    def of(self, key: str) -> str | None:
        """A key's new name; None if it is not the plain model's.

        >>> Names("module.", inner=True).of("module.net._orig_mod.weight"), Names("module.").of("n_averaged")
        ('net.weight', None)
        """
        new = _without_inner(key) if self.inner else key
        return new.removeprefix(self.prefix) if new.startswith(self.prefix) else None


def _without_inner(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in INNER)


def wrapper_prefix(keys: Iterable[str]) -> str:
    """The wrappers' prefixes that all keys have in common.

    >>> wrapper_prefix(["module._orig_mod.lin.weight", "module._orig_mod.lin.bias"])
    'module._orig_mod.'
    """
    keys, prefix = list(keys), ""
    while step := next((w for w in WRAPPERS if keys and all(key.startswith(prefix + w) for key in keys)), ""):
        prefix += step
    return prefix


def without_wrappers(keys: Sequence[str], terms: Mapping[str, Sequence[str]]) -> Names:
    """The names without what wrappers put before every key.

    `terms` are the prefixes of the layers that have terms, and what their records call them: what is before that is a
    wrapper's, `net.` too. CheckpointError if only some keys have it: whether the others are the model's cannot be told.
    """
    own = [_without_inner(key) for key in keys if key not in BESIDE]
    layers = {_without_inner(prefix): names for prefix, names in terms.items()}
    found = _ahead_of(layers) or wrapper_prefix(own) or wrapper_prefix(layers)
    others = [key for key in own if not key.startswith(found)]
    if others:
        more = f" and {len(others) - 1} more do" if len(others) > 1 else " does"
        raise CheckpointError(
            f"the terms' keys begin with {found!r}, and {others[0]!r}{more} not, so it cannot be told whether that is a "
            f"wrapper's; give the prefix {found!r} to keep only what is below it."
        )
    return Names(found, inner=True)


def _ahead_of(layers: Mapping[str, Sequence[str]]) -> str:
    """What is before the names of all layers; "" if they do not agree.

    >>> _ahead_of({"net.lin.": ["lin"], "net.a.out.": ["first.out", "a.out"]})
    'net.'
    """
    found = [{_ahead(prefix, name) for name in names} - {None} for prefix, names in layers.items()]
    return min(filter(None, set.intersection(*found)), key=len, default="") if found else ""


def _ahead(prefix: str, name: str) -> str | None:
    """What is before a module's name in its prefix; None if that is another's."""
    own = f"{name}." if name else ""
    ahead = prefix.removesuffix(own)
    return ahead if prefix.endswith(own) and (not ahead or ahead.endswith(".")) else None


def changes_none(names: Names, keys: Iterable[str]) -> bool:
    """Whether every key stays as it is."""
    return all(names.of(key) == key for key in keys)
