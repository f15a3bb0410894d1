"""How a training is looked at, and when it ends early."""

from typing import Literal, Self

from pydantic import Field, model_validator

from codelm.config.settings import Settings, Share

Score = Literal["exact_match", "bits_per_byte"]
"""What an evaluation measures on held-out files: infilling exact match (more is better), bits per byte (less is)."""


class Plateau(Settings):
    """Ends a run whose score does not improve any more."""

    score: Score = Field("bits_per_byte", description="exact_match of few places is coarse: it needs more patience")
    evaluations: int = Field(gt=0, description="in a row without improvement")
    min_delta: float = Field(0.0, ge=0, description="what is less than this is no improvement")


class Divergence(Settings):
    """Ends a run whose training loss rises and stays high."""

    factor: float = Field(1.5, gt=1, description="over the lowest loss that was logged")
    logged_steps: int = Field(10, gt=0, description="in a row above that")


class Floor(Settings):
    """Ends a run that is worse than it must be, such as than the stage before it was."""

    score: Score = Field("bits_per_byte", description="of the light evaluations")
    value: float = Field(ge=0, description="what the best evaluation so far has to reach")
    share: Share = Field(0.5, description="of the steps, by when")


class EarlyStop(Settings):
    """When a run ends before its budget; each rule is off unless it is given."""

    plateau: Plateau | None = None
    divergence: Divergence | None = None
    floor: Floor | None = None


class WatchConfig(Settings):
    """Log, evaluations, checkpoints, early stop."""

    log_every: int = Field(10, gt=0, description="steps")
    checkpoint_seconds: float = Field(60, gt=0, description="a checkpoint to resume from, at least so often")
    checkpoint_steps: int | None = Field(None, gt=0, description="a checkpoint that is evaluated, at least every so many steps")
    evaluations: int = Field(
        5, ge=0, description="checkpoints that are evaluated, spread over the run, at least; the last step is one"
    )
    evaluation_tokens: int = Field(8_192, gt=0, description="of the validation split, for bits per byte")
    evaluation_places: int = Field(
        64, ge=0, multiple_of=2, description="cursors in the validation split, for infilling exact match; 0: none"
    )
    keep_checkpoints: int = Field(2, gt=0, description="the newest ones; the best by infilling stays besides")
    early_stop: EarlyStop = EarlyStop()
    wandb: str | None = Field(
        None, description="project of Weights & Biases to log to besides; what leaves this machine without WANDB_MODE=offline"
    )

    @model_validator(mode="after")
    def rules_have_scores(self) -> Self:
        plateau, floor = self.early_stop.plateau, self.early_stop.floor
        for rule in (plateau, floor):
            if rule is None:
                continue
            if not (self.evaluations or self.checkpoint_steps):
                raise ValueError("early_stop.plateau and early_stop.floor need evaluations or checkpoint_steps")
            if rule.score == "exact_match" and not self.evaluation_places:
                raise ValueError("early_stop by exact_match needs evaluation_places")
        return self
