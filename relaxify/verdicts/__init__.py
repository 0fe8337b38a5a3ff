"""Verdicts: whether a model as it is commutes with a group, measured end to end, without a look inside."""
