"""Weights as they may be after training, where initial ones would hide what a model does."""

import torch
from torch import nn


@torch.no_grad()
def generic_norms(model: nn.Module) -> nn.Module:
    """Norm layers with random scales, shifts and running statistics in place of ones and zeros. Returns the model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            for name, value in module.state_dict().items():
                if name in ("weight", "running_var"):
                    value.uniform_(0.5, 1.5)
                elif name in ("bias", "running_mean"):
                    value.uniform_(-0.5, 0.5)
    return model
