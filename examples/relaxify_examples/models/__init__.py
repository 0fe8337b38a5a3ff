"""Models to relax, each written from its paper."""
