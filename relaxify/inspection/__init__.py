"""Equivariance errors of a model as a whole, of its layers and of its operations: the report and its renderings."""
