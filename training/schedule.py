"""The learning rate as a function of the step."""

import math

from codelm.config.pretrain import PretrainConfig


def learning_rate_share(step: int, steps: int, config: PretrainConfig) -> float:
    """The share of the peak rate at step 0 … steps − 1: linear warmup, then what `config.schedule` says.

    cosine: down to `final_lr_share` at the end. wsd: flat, then a line down to it over the last `decay_share` of the steps
    (warmup-stable-decay, arXiv 2404.06395).
    """
    warmup = warmup_steps(steps, config)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return config.final_lr_share + (1 - config.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
    decay = decay_steps(steps, config)
    return 1 - (1 - config.final_lr_share) * max(0.0, (step - (steps - decay)) / max(1, decay))


def warmup_steps(steps: int, config: PretrainConfig) -> int:
    """Steps at the beginning of a run in which the rate rises."""
    return max(1, round(config.warmup_share * steps))


def decay_steps(steps: int, config: PretrainConfig) -> int:
    """Steps at the end of a run in which the rate falls; of a cosine, none."""
    return round(config.decay_share * steps) if config.schedule == "wsd" else 0
