"""Pixel grids: one geometry of convolutions, how groups act on taps and on pixels, flows and resampling."""
