"""How a training is looked at, and when it ends early."""

from pydantic import Field

from codelm.config.settings import Settings


class WatchConfig(Settings):
    """Log, validation, checkpoints."""

    log_every: int = Field(10, gt=0, description="steps")
    checkpoint_seconds: float = Field(60, gt=0, description="a checkpoint to resume from, at least so often")
    checkpoint_steps: int | None = Field(None, gt=0, description="a checkpoint that is evaluated, every so many steps")
    keep_checkpoints: int = Field(2, gt=0, description="the newest ones; the best by infilling stays besides")
    validations: int = Field(5, ge=0, description="how often held-out bits per byte are measured during the run")
    validation_tokens: int = Field(8_192, gt=0, description="of the validation split, each time")
