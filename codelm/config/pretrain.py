"""One training run: budget, batch, optimiser and schedule, with the groups `engine`, `data`, `fim` and `watch`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from codelm.config.data import DataConfig, FimConfig
from codelm.config.engine import EngineConfig
from codelm.config.settings import Settings, Share
from codelm.config.watch import WatchConfig


class PretrainConfig(Settings):
    """One pretraining run."""

    seed: int = Field(0, ge=0, description="of the first weights, the order of the data and its spans, and dropout")
    tokens: int | None = Field(None, gt=0, description="token budget; without one, give minutes")
    minutes: float | None = Field(None, gt=0, description="turned into a token budget by a short measurement")
    batch_size: int = Field(gt=0, description="sequences of an optimiser step, over all ranks and micro-batches")

    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for the hidden matrices, adamw for the rest")
    learning_rate: float = Field(gt=0, description="peak; of adamw")
    muon_learning_rate: float = Field(0.02, gt=0, description="peak; of muon, in units of the update's spectral norm")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of adamw")
    momentum: float = Field(0.95, ge=0, lt=1, description="of muon, Nesterov's")
    weight_decay: float = Field(0.1, ge=0, description="on matrices only, not on norms")
    clip: float = Field(1.0, gt=0, description="gradient norm")
    schedule: Literal["cosine", "wsd"] = Field("cosine", description="wsd: warmup, stable, decay")
    warmup_share: Share = Field(0.02, description="of the steps, linear from 0")
    decay_share: Share = Field(0.2, description="of the steps, at the end; wsd only")
    final_lr_share: Share = Field(0.1, description="of the learning rate, where the schedule ends")
    z_loss: float = Field(0.0, ge=0, description="weight of log² Z, which keeps logits small (arXiv 2204.02311)")
    ema: float | None = Field(None, gt=0, lt=1, description="decay per step of a running mean of the weights, kept beside them")
    dropout: Share = Field(0.0, description="of what attention and FFN add to the residual stream")
    attention_dropout: Share = Field(0.0, description="of attention weights")

    fim: FimConfig = FimConfig()
    data: DataConfig = DataConfig()
    engine: EngineConfig = EngineConfig()
    watch: WatchConfig = WatchConfig()

    @model_validator(mode="after")
    def has_one_budget(self) -> Self:
        if self.tokens is not None and self.minutes is not None:
            raise ValueError("give tokens or minutes, not both")
        return self

    @model_validator(mode="after")
    def micro_batches_make_a_batch(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of engine.micro_batch_size {self.micro_batch_size}")
        return self

    @model_validator(mode="after")
    def anneals_while_the_rate_decays(self) -> Self:
        if self.data.anneal and (self.schedule != "wsd" or not self.decay_share):
            raise ValueError("data.anneal is read while the learning rate decays: it needs schedule wsd and a decay_share")
        return self

    @property
    def micro_batch_size(self) -> int:
        """Sequences that a rank sees at once."""
        return self.engine.micro_batch_size or self.batch_size
