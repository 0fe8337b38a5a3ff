"""NequIP: trained relaxed from its own YAML by nequip-train, in two lines of it."""

from relaxify.nequip.module import Relaxed

__all__ = ["Relaxed"]
