"""What a plan refuses before anything starts, and the smallest change that mends it."""

import math
from pathlib import Path
from typing import Any

import torch

from codelm.config.data import DataConfig
from codelm.config.model import K_QUANT_BLOCK, ModelConfig
from codelm.config.preset import Preset
from codelm.config.rules import Strategy, strategy_of, why_not
from codelm.config.stages import HERE, Shape, Stage
from codelm.corpus.tokens import open_shard
from codelm.errors import UserError
from codelm.models import WEIGHT_SETTINGS
from training import attention
from training.data.mixture import sources
from training.plan.machine import Machine
from training.plan.memory import Computation, memory

MANY_EPOCHS = 4
"""Passes over the same code that are worth nearly as much as new code (Muennighoff et al. 2023, arXiv 2305.16264)."""
SHARDED: tuple[Strategy, ...] = ("zero2", "fsdp2", "zero3")
"""Strategies that leave less on a device than a whole model, the least traffic first."""


def check_quants(model: ModelConfig) -> None:
    """Raises UserError if llama.cpp's K-quants do not apply to each matrix: the settings see to width and FFN."""
    row = model.heads * model.head_dim
    if row % K_QUANT_BLOCK:
        raise UserError(
            f"heads × head_dim is {row}, no multiple of {K_QUANT_BLOCK}: Q4_K_M would fall back to larger formats",
            f"set model.head_dim so that {model.heads} × head_dim is a multiple of {K_QUANT_BLOCK}",
        )


def check_engine(preset: Preset, ranks: int, machine: Machine) -> None:
    """Raises UserError if no engine computes this on so many ranks."""
    from training.engine.zero import configuration

    config, engine = preset.pretrain, preset.pretrain.engine
    if error := why_not(config, preset.model, ranks, machine.kind):
        raise error
    if engine.attention != "auto":
        context, device = preset.model.context_length, torch.device(machine.kind)
        here = machine.name == HERE
        if error := attention.why_not(engine.attention, device, context, config.attention_dropout, machine.half, here):
            raise error
    if (strategy := strategy_of(engine, ranks)) in ("zero2", "zero3"):
        configuration(int(strategy[-1]), engine.deepspeed_config)


def check_mixture(tokens: Path, data: DataConfig) -> None:
    """Raises UserError if the documents of a tokens folder cannot be mixed as is asked for."""
    train = open_shard(tokens, "train")
    for mixture in (data.mixture, *([data.anneal.mixture] if data.anneal else [])):
        sources(train, mixture)


def check_continued(stage: Stage, before: Stage, theirs: ModelConfig, shape: Shape) -> None:
    """Raises UserError if a stage cannot go on with the weights of the one before, a model like `theirs`."""
    ours = stage.resolved(shape).model
    names = ("architecture", *WEIGHT_SETTINGS.values())
    differing = [
        f"{name} {getattr(theirs, name)} → {getattr(ours, name)}"
        for name in names
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if differing:
        raise UserError(
            f"stage {stage.id} continues stage {before.id}, which has another shape ({', '.join(differing)})",
            "leave out `continues`, or give both the same shape; of the model, only settings of its context may change",
        )


def check_epochs(needed: int, present: int, allowed: float) -> None:
    """Raises UserError if the data would be read more often than is allowed. Tokens."""
    epochs = needed / max(present, 1)
    if epochs > allowed:
        raise UserError(
            f"{needed:,} tokens are {epochs:.1f} passes over the {present:,} that are there; {allowed:g} are allowed",
            f"add sources to the corpus, or set pretrain.tokens to at most {math.floor(allowed * present)},"
            f" or data.max_epochs to {math.ceil(epochs)}",
        )


def check_memory(preset: Preset, how: Computation, machine: Machine) -> None:
    """Raises UserError if a step does not fit into the memory of a device, naming the smallest change that does."""
    needed = memory(preset.model, preset.pretrain, how).total + machine.base
    if needed <= machine.memory:
        return
    settings = smallest_change(preset, how, machine)
    said = [f"pretrain.engine.{name} to {str(value).lower()}" for name, value in (settings or {}).items()]
    raise UserError(
        f"a step needs {needed / 1e9:.1f} GB, {machine.title} has {machine.memory / 1e9:.1f} GB",
        f"set {' and '.join(said)}" if said else "take a device with more memory, or a smaller preset",
    )


def smallest_change(preset: Preset, how: Computation, machine: Machine) -> dict[str, Any] | None:
    """Settings of the engine with which a step fits, those that change least; None if nothing helps.

    A smaller micro-batch costs next to nothing, checkpointing a third more work, sharding a lot of traffic.
    """
    several = how.ranks > 1
    others = [one for one in SHARDED if several and one != how.strategy and computes(preset, how.ranks, machine.kind, one)]
    for strategy in [how.strategy, *others]:
        for checkpointing in dict.fromkeys([how.checkpointing, True]):
            for size in range(how.micro_batch_size, 0, -1):
                if how.micro_batch_size % size:
                    continue
                changed = how._replace(micro_batch_size=size, checkpointing=checkpointing, strategy=strategy)
                if memory(preset.model, preset.pretrain, changed).total + machine.base <= machine.memory:
                    settings = {
                        "strategy": (strategy, how.strategy),
                        "micro_batch_size": (size, how.micro_batch_size),
                        "gradient_checkpointing": (checkpointing, how.checkpointing),
                    }
                    return {name: new for name, (new, old) in settings.items() if new != old}
    return None


def computes(preset: Preset, ranks: int, device: str, strategy: Strategy) -> bool:
    """Whether an engine computes the training in this way."""
    changed = preset.with_training(engine={"strategy": strategy})
    return why_not(changed.pretrain, changed.model, ranks, device) is None


def computation(preset: Preset, ranks: int, machine: Machine) -> Computation:
    """How a preset is computed on so many devices."""
    engine = preset.pretrain.engine
    blocks = engine.attention == "blocks" or (
        engine.attention == "auto" and preset.model.context_length <= machine.longest_blocks
    )
    return Computation(
        strategy=strategy_of(engine, ranks),
        ranks=ranks,
        micro_batch_size=preset.pretrain.micro_batch_size,
        sequence_parallel=engine.sequence_parallel,
        checkpointing=engine.gradient_checkpointing,
        half=machine.half,
        compiled=engine.compile,
        attention="blocks" if blocks else "fused",
    )
