"""What cannot be computed as configured, known before anything starts."""

from typing import Literal

from codelm.config.engine import EngineConfig
from codelm.config.model import ModelConfig
from codelm.config.pretrain import PretrainConfig
from codelm.errors import UserError

Strategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3"]
NEEDS_WHOLE_MATRICES = ("muon",)
"""Optimisers whose update of a matrix is no function of its elements one by one."""


def strategy_of(engine: EngineConfig, ranks: int) -> Strategy:
    """How `ranks` processes share the work: with one there is nothing to share, but DeepSpeed's offloading may be wanted."""
    if ranks == 1 and engine.strategy not in ("zero2", "zero3"):
        return "single"
    return "ddp" if engine.strategy == "auto" else engine.strategy


def why_not(config: PretrainConfig, model: ModelConfig, ranks: int, device: str) -> UserError | None:
    """What stands against training `model` by `config`, with the fix; None if nothing does.

    ranks: processes, each with a device of its own. device: "cpu" or "cuda".
    """
    engine, strategy = config.engine, strategy_of(config.engine, ranks)
    if config.optimizer in NEEDS_WHOLE_MATRICES and strategy in ("zero2", "zero3"):
        return UserError(
            f"optimizer {config.optimizer} needs whole matrices, engine.strategy {strategy} shows it parts laid end to end",
            "set engine.strategy to ddp or fsdp2, or optimizer to adamw",
        )
    if engine.precision == "fp16" and device == "cpu":
        return UserError("engine.precision fp16 is for GPUs", "set engine.precision to bf16 or no, or leave it at auto")
    if error := why_not_in_sequence(engine, model, ranks):
        return error
    per_pass = ranks // engine.sequence_parallel * config.micro_batch_size
    if config.batch_size % per_pass:
        return UserError(
            f"batch_size {config.batch_size} cannot be shared out among {ranks // engine.sequence_parallel} ranks with"
            f" micro-batches of {config.micro_batch_size}",
            f"give a batch_size that is a multiple of {per_pass}, or another engine.micro_batch_size",
        )
    return None


def why_not_in_sequence(engine: EngineConfig, model: ModelConfig, ranks: int) -> UserError | None:
    """What stands against ranks that share one sequence: each has a part of the tokens, and in attention some of the heads."""
    share = engine.sequence_parallel
    if ranks % share:
        return UserError(
            f"{ranks} ranks cannot be cut into groups of engine.sequence_parallel {share}",
            f"start a multiple of {share} ranks, or set engine.sequence_parallel to 1",
        )
    if model.heads % share or (model.kv_heads % share and share % model.kv_heads):
        return UserError(
            f"{model.heads} heads with {model.kv_heads} kv_heads cannot be shared out among the {share} of sequence_parallel",
            "set engine.sequence_parallel to a divisor of model.heads that divides model.kv_heads or is a multiple of it",
        )
    if model.context_length % share:
        return UserError(
            f"context_length {model.context_length} cannot be cut into engine.sequence_parallel {share} equal parts",
            "set it to a divisor of model.context_length",
        )
    return None
