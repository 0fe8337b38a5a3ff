"""The walk over a model's operations: torch.fx graphs, traced symbolically or recorded from an eager run."""
