"""What decays."""

import torch

from codelm.config.preset import Preset
from codelm.models import build_model
from training.optimizers import adamw


def test_norms_do_not_decay(tiny_preset: Preset) -> None:
    model = build_model(tiny_preset.model, 0, 1)
    optimizer = adamw(model, tiny_preset.pretrain)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays.pop(id(parameter)) == (0 if "norm" in name else tiny_preset.pretrain.weight_decay), name
    assert not decays
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(tuple(group["betas"]) == tiny_preset.pretrain.betas for group in optimizer.param_groups)
