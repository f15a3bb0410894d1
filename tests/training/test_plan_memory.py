"""The bytes that a plan foretells are those that torch keeps."""

import contextlib
from typing import Any

import pytest
import torch

from codelm.config.model import ModelConfig
from codelm.config.preset import Preset, load_preset
from codelm.models import build_model, parameter_count
from training import attention
from training.data import Sample
from training.engine import LossModel
from training.optimizers import build_optimizer
from training.plan.memory import Computation, activation_bytes, block_matrices, block_parameters, memory, optimizer_bytes

SEQUENCES = 2


@pytest.fixture(scope="module")
def model(tiny_preset: Preset) -> ModelConfig:
    """Many blocks of few numbers, so that what the blocks keep is most of it."""
    changes = {"layers": 4, "context_length": 320, "ffn": 768}
    return ModelConfig.model_validate(tiny_preset.model.model_dump() | changes)


def kept_for_backward(model: ModelConfig, preset: Preset, how: Computation) -> int:
    """Bytes of all tensors that the forward pass of our loop saves, weights and their copies apart."""
    built = build_model(model, 0, 1)
    built.set_attn_implementation(attention.registered("blocks" if how.attention == "blocks" else "sdpa"))
    if how.checkpointing:
        built.activation_checkpointing_enable()
    loss_model = LossModel(built.train(), preset.pretrain, None)
    if how.compiled:  # as inductor cuts the graph in two, without making code of it
        loss_model._loss = torch.compile(loss_model._eager_loss, backend="aot_eager_decomp_partition")
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    shapes = {tuple(p.shape) for p in built.parameters()} | {tuple(p.T.shape) for p in built.parameters() if p.ndim == 2}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, model.vocab_size, (SEQUENCES, model.context_length))
    positions = torch.arange(model.context_length).expand_as(ids)
    autocast: Any = torch.autocast("cpu", torch.bfloat16) if how.half else contextlib.nullcontext()
    with autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_model(Sample(ids=ids, labels=ids, kinds=torch.zeros_like(ids), positions=positions))
    torch.compiler.reset()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("kind", ["fused", "blocks"])
def test_activations(model: ModelConfig, tiny_preset: Preset, half: bool, kind: Any) -> None:
    how = Computation("single", 1, SEQUENCES, half=half, compiled=False, attention=kind)
    assert activation_bytes(model, how) == pytest.approx(kept_for_backward(model, tiny_preset, how), rel=0.1)


@pytest.mark.parametrize(("half", "kind"), [(True, "fused"), (False, "blocks")])
def test_activations_that_a_compiler_keeps(model: ModelConfig, tiny_preset: Preset, half: bool, kind: Any) -> None:
    how = Computation("single", 1, SEQUENCES, half=half, attention=kind)
    shallow = model.model_copy(update={"layers": 2})  # a compiler takes its time for each block
    assert activation_bytes(shallow, how) == pytest.approx(kept_for_backward(shallow, tiny_preset, how), rel=0.1)


def test_checkpointing_keeps_what_goes_into_each_block(model: ModelConfig, tiny_preset: Preset) -> None:
    how = Computation("single", 1, SEQUENCES, half=False, compiled=False, checkpointing=True)
    kept = kept_for_backward(model, tiny_preset, how)
    one_block = activation_bytes(model, how) - kept  # is made anew while the backward pass is in it
    without = how._replace(checkpointing=False)
    deeper = model.model_copy(update={"layers": model.layers + 1})
    assert one_block == pytest.approx(activation_bytes(deeper, without) - activation_bytes(model, without), rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"ema": 0.999}, {"optimizer": "muon", "ema": 0.9}])
def test_the_optimiser(model: ModelConfig, tiny_preset: Preset, changes: dict[str, Any]) -> None:
    config = tiny_preset.with_training(**changes).pretrain
    built = build_model(model, 0, 1)
    optimizer = build_optimizer(built, config)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in built.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    assert optimizer_bytes(model, config) == pytest.approx(held, rel=0.001)


def test_blocks_are_counted(model: ModelConfig) -> None:
    built = build_model(model, 0, 1)
    block = list(built.model.layers[0].parameters())
    assert block_parameters(model) == sum(p.numel() for p in block)
    assert block_matrices(model) == sum(p.numel() for p in block if p.ndim == 2)


def test_what_is_cut_up() -> None:
    preset = load_preset("200m")
    count = parameter_count(preset.model)
    alone, ddp, zero2, zero3, fsdp2 = (
        memory(preset.model, preset.pretrain, Computation(strategy, ranks, 4))
        for strategy, ranks in (("single", 1), ("ddp", 4), ("zero2", 4), ("zero3", 4), ("fsdp2", 4))
    )
    assert alone.parameters + alone.gradients + alone.optimizer == 16 * count, "ZeRO's 16 bytes a parameter"
    assert ddp.buffers == alone.buffers + 4 * count
    assert zero2.parameters == alone.parameters
    assert zero2.gradients == zero3.gradients == fsdp2.gradients == count
    assert zero2.optimizer == zero3.optimizer == 3 * count
    assert fsdp2.optimizer == 2 * count
    assert zero3.parameters == fsdp2.parameters == count
    assert {part.activations for part in (alone, ddp, zero2, zero3, fsdp2)} == {alone.activations}


def test_ranks_that_share_a_sequence_share_its_activations() -> None:
    preset = load_preset("200m")
    whole, half = (memory(preset.model, preset.pretrain, Computation("zero2", 4, 4, share)) for share in (1, 2))
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.01)
