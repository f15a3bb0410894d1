"""AdamW and its schedule."""

import math

import torch

from codelm.config.preset import PretrainConfig


def adamw(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) with decay on matrices only; fused where torch has a fused kernel for the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, steps: int, config: PretrainConfig) -> float:
    """The rate of step 0 … steps − 1: linear warmup, then a cosine down to `final_lr_share` of the peak."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    share = config.final_lr_share + (1 - config.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share
