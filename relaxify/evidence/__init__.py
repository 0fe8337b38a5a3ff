"""How the values of a recorded run transform, and what that says of a model's layers."""
