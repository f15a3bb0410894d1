"""How a training is computed: none of it changes what is learned, but for rounding."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from codelm.config.settings import Settings


class EngineConfig(Settings):
    """Devices, ranks, precision and memory."""

    strategy: Literal["auto", "ddp", "fsdp2", "zero2", "zero3"] = Field(
        "auto", description="how several ranks share the work; auto: ddp if there are several"
    )
    deepspeed_config: Path | None = Field(
        None, description="DeepSpeed's own settings, JSON or YAML, in place of the ready-made ones of zero2 and zero3"
    )
    micro_batch_size: int | None = Field(
        None, gt=0, description="sequences a rank sees at once; gradients are added up to batch_size; None: all of them"
    )
    sequence_parallel: int = Field(1, gt=0, description="ranks that share one sequence (DeepSpeed Ulysses)")
    precision: Literal["auto", "bf16", "fp16", "no"] = Field(
        "auto", description="autocast, the weights stay float32; auto: bf16 where the processor computes in it, else none"
    )
    compile: bool = Field(
        True, description="torch.compile; without a C++ compiler, or with one that gets it wrong, training goes on uncompiled"
    )
    attention: Literal["auto", "blocks", "sdpa", "flash_attention_2", "varlen"] = Field(
        "auto", description="auto: the fastest that is installed and allows what is asked for"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for a third more work")
    workers: int = Field(0, ge=0, description="data worker processes, for GPUs; the samples do not depend on them")

    @field_validator("precision", mode="before")
    @classmethod
    def unquoted(cls, value: object) -> object:
        """`no` without quotes is false in YAML."""
        return "no" if value is False else value
