"""The engine of one process: precision, memory, and machines and models on which something is wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._functorch.aot_autograd import aot_module_simplified

from codelm import checkpoints
from codelm.config.preset import Preset
from codelm.errors import UserError
from codelm.models import build_model
from codelm.run_folder import found
from codelm.stage import Manifest
from training import metrics
from training.checkpoint import LossScale
from training.data import Sample
from training.engine import Engine, NotFiniteError, loss_model, why_not_compilable
from training.engine.zero import configuration
from training.optimizers import adamw
from training.pretrain import pretrain

compile_with = torch.compile
Train = Callable[..., Manifest]
Made = Callable[..., Engine]


@pytest.fixture
def made(tiny_preset: Preset) -> Made:
    """Makes an engine with a model of one layer; settings are those of `engine`."""

    def made(**settings: Any) -> Engine:
        config = tiny_preset.with_training(engine=settings).pretrain
        model = build_model(tiny_preset.model.model_copy(update={"layers": 1}), 0, 1)
        return Engine(model, adamw(model, config), config)

    return made


def a_batch() -> Sample:
    """One sequence."""
    ids = (torch.arange(65) * 7 % 64)[None]
    return Sample(ids[:, :-1], ids[:, 1:], torch.zeros_like(ids[:, 1:]), torch.arange(64)[None])


def learn(engine: Engine, share: float = 1.0) -> float:
    """A step on one sequence; returns its loss per token before it."""
    loss = float(engine.backward(a_batch(), divisor=64).sum()) / 64
    engine.update(share)
    return loss


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.strategy.weights().items()}


def test_without_a_compiler_training_goes_on_and_says_so(
    tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "nowhere")
    reason = why_not_compilable(torch.device("cpu"))
    assert reason
    said: list[str] = []
    settings = tiny_preset.with_training(tokens=1_024, engine={"compile": True})
    pretrain(tmp_path / "pretrain", settings, tokens_dir, tokenizer_dir, say=said.append)
    assert f"training uncompiled: {reason}" in said


def off(by: float) -> Callable[..., Any]:
    """A compiler for torch whose code of the backward pass is off by a factor."""

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        def wrong(gradient: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
            return make_boxed_func(lambda *values: [value if value is None else by * value for value in gradient(*values)])

        return aot_module_simplified(graph, inputs, fw_compiler=lambda forward, _: make_boxed_func(forward), bw_compiler=wrong)

    return compiler


@pytest.mark.parametrize(("by", "wrong"), [(1.0, False), (1.1, False), (2.0, True), (math.nan, True)])
def test_a_compiled_model_with_wrong_gradients_is_found_out(made: Made, by: float, wrong: bool) -> None:
    engine = made()
    engine.why_not_compiled = None
    engine.loss_model._loss = torch.compile(engine.loss_model._eager_loss, backend=off(by))
    engine.check_compiled(a_batch())
    assert bool(engine.why_not_compiled) == wrong
    if engine.why_not_compiled:
        assert "as the gradient of model.embed_tokens.weight shows" in engine.why_not_compiled
        assert engine.loss_model._loss == engine.loss_model._eager_loss
    assert not engine.model.is_activation_checkpointing
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_a_training_says_that_it_goes_on_uncompiled(
    tiny_preset: Preset, tokens_dir: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_model.torch, "compile", lambda function: compile_with(function, backend=off(math.nan)))
    said: list[str] = []
    settings = tiny_preset.with_training(tokens=1_024, engine={"compile": True})
    trained = pretrain(tmp_path / "pretrain", settings, tokens_dir, tokenizer_dir, say=said.append)
    assert said[0].startswith("training uncompiled: the C++ compiler makes wrong code of this model")
    assert math.isfinite(trained.counts["loss"])


def test_gradient_checkpointing_computes_the_same(made: Made) -> None:
    """The block runs again in the backward pass, so its attention is called twice as often."""
    losses, calls = {}, {}
    for checkpointing in (False, True):
        engine, counted = made(gradient_checkpointing=checkpointing), 0

        def count(*_: Any) -> None:
            nonlocal counted
            counted += 1

        engine.model.model.layers[0].self_attn.register_forward_hook(count)
        losses[checkpointing] = [learn(engine) for _ in range(4)]
        calls[checkpointing] = counted
    assert losses[True] == losses[False]
    assert (calls[False], calls[True]) == (4, 8)


def test_float16_meets_overflow_with_a_smaller_scale(made: Made, tmp_path: Path) -> None:
    engine = made(precision="fp16")
    engine.strategy.loss_scale = LossScale(2.0**60, 5)
    before = weights(engine)
    learn(engine)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(engine).items()), "the step is left out"
    assert engine.strategy.loss_scale == LossScale(2.0**59, 0)
    engine.check_finite()
    engine.strategy.loss_scale = LossScale(2.0**10, 0)
    losses = [learn(engine) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5
    assert engine.strategy.loss_scale == LossScale(2.0**10, 8)
    other = made(precision="fp16")
    other.restore(engine.save(tmp_path, 9))
    assert other.strategy.loss_scale == LossScale(2.0**10, 8)
    assert learn(other) == learn(engine)


def test_float16_computes_what_float32_does(made: Made) -> None:
    wide, narrow = made(precision="no"), made(precision="fp16")
    narrow.strategy.loss_scale = LossScale(2.0**10, 0)
    ours, theirs = ([learn(engine) for _ in range(4)] for engine in (narrow, wide))
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert ours != theirs


def test_float16_gives_up_where_no_scale_helps(made: Made) -> None:
    engine = made(precision="fp16")
    engine.strategy.loss_scale = LossScale(1.0, 0)
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(torch.inf)
    learn(engine)
    with pytest.raises(NotFiniteError):
        engine.check_finite()


def test_a_broken_model_is_not_saved(made: Made, tmp_path: Path) -> None:
    engine = made()
    learn(engine)
    engine.save(tmp_path, 1)
    with torch.no_grad():
        engine.model.model.norm.weight[0] = torch.nan
    learn(engine)
    learn(engine)
    with pytest.raises(NotFiniteError) as raised:
        engine.save(tmp_path, 3)
    assert raised.value.step == 1
    assert [path.name for path in found(tmp_path)] == ["checkpoint-1"]


def test_a_broken_model_ends_the_run_with_what_it_had_read(train: Train, tmp_path: Path) -> None:
    folder, settings = tmp_path / "pretrain", {"learning_rate": 1e20, "watch": {"log_every": 2, "checkpoint_seconds": 1e-6}}
    with pytest.raises(UserError) as raised:
        train(folder, tokens=9 * 256, **settings)
    told = json.loads((folder / "not_finite.json").read_text(encoding="utf-8"))
    assert told["step"] > 1
    assert told["samples"] == [(told["step"] - 1) * 4, told["step"] * 4 - 1]
    assert all("/" in place for place in told["documents"])
    message, good = str(raised.value), found(folder)
    assert f"step {told['step']} is no finite number" in message
    assert told["documents"][0] in message
    assert good[-1].name == f"checkpoint-{told['step'] - 1}"
    assert f"the last good checkpoint is {good[-1]}" in message
    checkpoints.verify(good[-1])
    assert all(math.isfinite(row["loss"]) for row in metrics.read(folder) if "loss" in row)
    with pytest.raises(UserError, match=f"step {told['step']} is no finite number"):  # it comes there again
        train(folder, tokens=9 * 256, **settings)


def test_measuring_leaves_no_trace(made: Made) -> None:
    fresh, measured = made(), made()
    for _ in range(3):
        learn(measured, share=0.0)
    measured.forget()
    assert [learn(measured) for _ in range(3)] == [learn(fresh) for _ in range(3)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file"),
        ("{", "while parsing"),
        ("- 1", "expected keys with values"),
        ('{"zero_optimization": {"stage": 3}}', "zero_optimization.stage is not 2"),
        (
            '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}, "optimizer": {}}',
            "optimizer, bf16 follows from the preset",
        ),
    ],
)
def test_settings_of_deepspeed_that_cannot_be_used(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "zero.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        configuration(2, path)
    assert f"engine.deepspeed_config {path}: " in raised.value.message
    assert reason in raised.value.message.lower()


def test_settings_of_deepspeed_that_are_ready_made(tmp_path: Path) -> None:
    assert [configuration(stage, None)["zero_optimization"]["stage"] for stage in (2, 3)] == [2, 3]
    path = tmp_path / "zero.yaml"
    path.write_text("zero_optimization: {stage: 3, offload_optimizer: {device: cpu}}", encoding="utf-8")
    assert configuration(3, path)["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
