"""What is refused before anything starts."""

from typing import Any

import pytest

from codelm.config.preset import Preset, load_preset
from codelm.config.rules import strategy_of, why_not
from codelm.errors import UserError

NANO = load_preset("nano")


def error_of(ranks: int, device: str = "cpu", model: dict[str, Any] | None = None, **training: Any) -> UserError | None:
    preset: Preset = NANO.with_training(**training)
    return why_not(preset.pretrain, preset.model.model_copy(update=model or {}), ranks, device)


@pytest.mark.parametrize(("strategy", "fits"), [("ddp", True), ("fsdp2", True), ("zero2", False), ("zero3", False)])
def test_muon_needs_whole_matrices(strategy: str, fits: bool) -> None:
    engine = {"strategy": strategy, "micro_batch_size": 2}
    error = error_of(2, optimizer="muon", batch_size=4, engine=engine)
    assert (error is None) == fits
    assert fits or f"muon needs whole matrices, engine.strategy {strategy} shows it parts" in str(error)
    assert not error_of(2, optimizer="adamw", ema=0.99, batch_size=4, engine=engine)


def test_fp16_is_for_gpus() -> None:
    error = error_of(1, engine={"precision": "fp16"})
    assert error
    assert "precision fp16 is for GPUs" in error.message
    assert not error_of(1, "cuda", engine={"precision": "fp16"})


def test_a_batch_that_ranks_cannot_share() -> None:
    error = error_of(3, batch_size=4, engine={"micro_batch_size": 1})
    assert error
    assert "batch_size 4 cannot be shared out among 3 ranks with micro-batches of 1" in error.message
    assert "multiple of 3" in error.fix
    assert not error_of(3, batch_size=6, engine={"micro_batch_size": 1})


@pytest.mark.parametrize(
    ("ranks", "model", "share", "reason"),
    [
        (3, {}, 2, "3 ranks cannot be cut into groups of engine.sequence_parallel 2"),
        (1, {}, 2, "1 ranks cannot be cut"),
        (8, {"heads": 4, "kv_heads": 2}, 8, "4 heads with 2 kv_heads cannot be shared out"),
        (3, {"heads": 6, "kv_heads": 2}, 3, "6 heads with 2 kv_heads cannot be shared out"),
        (2, {"context_length": 511}, 2, "context_length 511 cannot be cut"),
    ],
)
def test_sequences_that_ranks_cannot_share(ranks: int, model: dict[str, Any], share: int, reason: str) -> None:
    error = error_of(ranks, model=model, batch_size=4, engine={"sequence_parallel": share, "micro_batch_size": 1})
    assert error
    assert reason in error.message


@pytest.mark.parametrize(("ranks", "share"), [(2, 2), (4, 4), (4, 2)])
def test_sequences_that_ranks_can_share(ranks: int, share: int) -> None:
    shape = {"heads": 4, "kv_heads": 2}
    assert not error_of(ranks, model=shape, batch_size=4, engine={"sequence_parallel": share, "micro_batch_size": 1})


@pytest.mark.parametrize(
    ("strategy", "ranks", "meant"),
    [("auto", 1, "single"), ("auto", 2, "ddp"), ("fsdp2", 1, "single"), ("fsdp2", 2, "fsdp2"), ("zero3", 1, "zero3")],
)
def test_the_strategy_that_is_meant(strategy: str, ranks: int, meant: str) -> None:
    engine = NANO.with_training(engine={"strategy": strategy}).pretrain.engine
    assert strategy_of(engine, ranks) == meant
