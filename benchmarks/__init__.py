"""What relaxing costs: `python -m benchmarks` (or `make bench`) times whole training steps and measures their memory."""
