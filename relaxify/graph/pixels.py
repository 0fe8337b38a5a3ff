"""`MovePixels` under the name that earlier releases gave it; it is `relaxify.MovePixels` now."""

from relaxify.grids.pixels import MovePixels

__all__ = ["MovePixels"]
