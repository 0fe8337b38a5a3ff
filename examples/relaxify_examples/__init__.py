"""Whole experiments on real models, and the models themselves, which use the public names of relaxify as anybody would."""
