"""The dry run: what stages would hold, need, take and cost, before anything is spent."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field

from codelm import __version__
from codelm.config.model import K_QUANT_BLOCK, ModelConfig
from codelm.config.preset import Preset
from codelm.config.rules import Strategy
from codelm.config.stages import HERE, Gate, Shape, Stage
from codelm.errors import UserError
from codelm.models import flops_per_token, parameter_count, serving_notes
from codelm.progress import Progress, silent
from codelm.stage import Manifest
from codelm.tokenizer import FILE as TOKENIZER_FILE
from training import origin
from training.budget import DEFAULT_TOKENS_PER_PARAMETER, Budget
from training.plan import checks, devices, sizes
from training.plan.machine import Machine, machine_of
from training.plan.measure import Measurement, measure
from training.plan.memory import Computation, memory

STRATEGIES: tuple[Strategy, ...] = ("ddp", "zero2", "zero3", "fsdp2")
BYTES_PER_TOKEN = 3.5
"""Of code, where the corpus is there and its tokens are not."""


class MemoryRow(BaseModel):
    """Memory of a device under one way to compute a step; bytes."""

    strategy: Strategy
    checkpointing: bool
    parts: dict[str, int] = Field(description="reserve: what is taken before a tensor is made")
    total: int
    fits: bool
    chosen: bool = Field(description="whether the stage is configured so")
    possible: bool = Field(description="whether an engine computes the stage so")


class StagePlan(BaseModel):
    """What one stage would be."""

    id: str
    name: str
    aim: str
    preset: str
    after: str | None
    continues: bool
    model: ModelConfig
    parameters: int
    parameter_budget: tuple[int, int] | None
    report_shape: str | None = Field(description="layers × width, as it was first planned")
    report_parameters: int | None
    flops_per_token: int
    tokens: int | None
    steps: int | None
    tokens_per_step: int
    device: str
    device_title: str
    devices: int
    device_memory: int = Field(description="bytes")
    strategy: Strategy
    micro_batch_size: int
    memory: list[MemoryRow]
    memory_estimated: int = Field(description="bytes of one device, as it is configured")
    memory_reserved: int = Field(0, description="bytes of that which a training on a GPU does not count as its own")
    memory_measured: int | None = Field(description="bytes of one device, in a short training on this machine")
    tokens_per_second: float | None = Field(description="over all devices")
    speed_source: str
    mfu: float | None = Field(description="model FLOPs utilisation")
    hours: float | None
    kwh: float | None
    cost: float | None = Field(description="dollars")
    max_hours: float | None
    checkpoint_bytes: int
    gguf_bytes: dict[str, int]
    legal: list[str] = Field(description="what llama.cpp asks of a shape, and that it is so")
    corpus: str
    data_note: str
    tokens_present: int | None = Field(description="in the run folder; None: there is none")
    tokens_exact: bool = Field(description="whether they were counted, or told by the size of the corpus")
    epochs: float | None
    sft_samples: int
    gate: Gate
    rounds: int
    review: list[str]
    stop: list[str]
    warnings: list[str]

    @property
    def memory_counted(self) -> int:
        """What is measured, or else estimated, of what a training counts: on a GPU, what tensors take."""
        return self.memory_measured or self.memory_estimated - self.memory_reserved


class Plan(BaseModel):
    """What a plan says, as `--format json` prints it."""

    schema_version: int = 1
    codelm_version: str = __version__
    description: str
    shape: Shape
    run: str | None
    stages: list[StagePlan]

    def total(self, name: str) -> float | None:
        """Hours, kwh or cost of all stages; None if one of them is unknown."""
        values = [getattr(stage, name) for stage in self.stages]
        return None if None in values else sum(values)


class Present(NamedTuple):
    """What a run folder holds."""

    tokens: int | None = None
    encoded: Path | None = None
    """the tokens' folder; None: there is none, and their number was told by the size of the corpus"""
    vocab_size: int | None = None
    tokenizer: Path | None = None


def make_plan(
    description: str,
    stages: Sequence[Stage],
    shape: Shape = "budget",
    run: Path | None = None,
    measured: bool | None = None,
    progress: Progress = silent,
) -> Plan:
    """Plans each stage.

    run: the folder whose data are meant. measured: whether to train for some seconds on this machine; None: where a stage is
    for this machine. Raises UserError, with the fix, for what cannot work.
    """
    present = present_in(run)
    presets = [planned_preset(stage, shape) for stage in stages]
    for stage, preset in zip(stages, presets, strict=True):
        refuse(stage, preset, present)
    plans = []
    for number, (stage, preset) in enumerate(zip(stages, presets, strict=True)):
        progress(number, len(stages), note=f"stage {stage.id}")
        here = stage.hardware.device.lower() == HERE
        alone = preset.pretrain.engine.sequence_parallel == 1  # a measurement is one process
        found = measure(preset, run, progress) if here and alone and measured is not False else None
        plans.append(plan_stage(stage, preset, present, found))
    progress(len(stages), len(stages))
    return Plan(description=description, shape=shape, run=str(run) if run else None, stages=plans)


def planned_preset(stage: Stage, shape: Shape) -> Preset:
    """What a stage trains. In the shape that was planned first it has an engine with room for it: the preset's is for less."""
    preset = stage.resolved(shape)
    if shape == "budget":
        return preset
    machine = machine_of(stage.hardware, preset)
    how = checks.computation(preset, stage.hardware.devices, machine)
    return preset.with_training(engine=checks.smallest_change(preset, how, machine))


def refuse(stage: Stage, preset: Preset, present: Present) -> None:
    """Raises UserError, naming the stage, for what cannot work."""
    machine, hardware = machine_of(stage.hardware, preset), stage.hardware
    how = checks.computation(preset, hardware.devices, machine)
    try:
        checks.check_quants(preset.model)
        checks.check_engine(preset, hardware.devices, machine)
        if present.vocab_size is not None:
            origin.check_vocabulary(preset.model, present.vocab_size)
        if present.tokens is not None and (needed := tokens_of(preset)):
            checks.check_epochs(needed, present.tokens, stage.data.max_epochs)
        if present.encoded is not None:
            checks.check_mixture(present.encoded, preset.pretrain.data)
        checks.check_memory(preset, how, machine)
    except UserError as error:
        raise UserError(f"stage {stage.id}: {error.message}", error.fix) from error


def tokens_of(preset: Preset) -> int | None:
    """The budget; None if it is in minutes."""
    if preset.pretrain.minutes is not None:
        return None
    return preset.pretrain.tokens or DEFAULT_TOKENS_PER_PARAMETER * parameter_count(preset.model)


def present_in(run: Path | None) -> Present:
    """The data of a run folder. Raises UserError if it is not there or its manifests are broken."""
    if run is None:
        return Present()
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder", "build one with `codelm corpus build`, or leave out --run")
    tokens, corpus, tokenizer = run / "tokens", run / "corpus", run / "tokenizer"
    entries = Manifest.read(tokenizer).counts["vocab_size"] if tokenizer.is_dir() else None
    file = tokenizer / TOKENIZER_FILE if tokenizer.is_dir() else None
    if tokens.is_dir():
        train = Manifest.read(tokens).counts["train"]
        return Present(train["tokens"] + train["documents"], tokens, entries, file)
    if corpus.is_dir():
        size = Manifest.read(corpus).counts["splits"]["train"]["bytes"]
        return Present(round(size / BYTES_PER_TOKEN), None, entries, file)
    return Present(vocab_size=entries, tokenizer=file)


def plan_stage(stage: Stage, preset: Preset, present: Present, measured: Measurement | None) -> StagePlan:
    """The plan of a stage that can work."""
    model, config, hardware = preset.model, preset.pretrain, stage.hardware
    machine = machine_of(hardware, preset)
    how = checks.computation(preset, hardware.devices, machine)
    parameters, flops = parameter_count(model), flops_per_token(model)
    speed, source = speed_of(stage, preset, machine, measured)
    tokens = tokens_of(preset)
    if tokens is None and speed:
        tokens = round((config.minutes or 0) * 60 * speed)
    budget = Budget.of_tokens(tokens, config.batch_size * model.context_length) if tokens else None
    tokens = budget.tokens if budget else None
    hours = tokens / speed / 3600 if tokens and speed else None
    report = ModelConfig.model_validate(model.model_dump() | stage.report.changes()) if stage.report else None
    plan = StagePlan(
        id=stage.id,
        name=stage.name,
        aim=stage.aim,
        preset=preset.name,
        after=stage.after,
        continues=stage.continues,
        model=model,
        parameters=parameters,
        parameter_budget=stage.parameters,
        report_shape=f"{report.layers} × {report.width}" if report else None,
        report_parameters=parameter_count(report) if report else None,
        flops_per_token=flops,
        tokens=tokens,
        steps=budget.steps if budget else None,
        tokens_per_step=config.batch_size * model.context_length,
        device=machine.name,
        device_title=machine.title,
        devices=hardware.devices,
        device_memory=machine.memory,
        strategy=how.strategy,
        micro_batch_size=how.micro_batch_size,
        memory=memory_rows(preset, how, machine),
        memory_estimated=memory(model, config, how).total + machine.base,
        memory_reserved=machine.base if machine.kind == "cuda" else 0,
        memory_measured=measured.memory if measured else None,
        tokens_per_second=speed,
        speed_source=source,
        mfu=speed * flops / hardware.devices / machine.peak if speed and machine.peak else None,
        hours=hours,
        kwh=hours * hardware.devices * machine.watts / 1000 if hours is not None and machine.watts else None,
        cost=hours * hardware.devices * machine.price if hours is not None and machine.price is not None else None,
        max_hours=hardware.max_hours,
        checkpoint_bytes=sizes.checkpoint_bytes(model, config),
        gguf_bytes={name: sizes.gguf_bytes(model, name, present.tokenizer) for name in sizes.FORMATS},
        legal=legal(model),
        corpus=stage.data.corpus,
        data_note=stage.data.note,
        tokens_present=present.tokens,
        tokens_exact=present.tokens is None or present.encoded is not None,
        epochs=tokens / present.tokens if tokens and present.tokens else None,
        sft_samples=stage.sft.samples,
        gate=stage.gate,
        rounds=stage.rounds,
        review=stage.review,
        stop=stage.stop,
        warnings=[],
    )
    return plan.model_copy(update={"warnings": warnings(plan)})


def speed_of(stage: Stage, preset: Preset, machine: Machine, measured: Measurement | None) -> tuple[float | None, str]:
    """Tokens/s of all devices, and where the figure comes from."""
    hardware, parameters = stage.hardware, parameter_count(preset.model)
    if measured:
        part = f", with {measured.part}" if measured.part else ""
        many = hardware.devices if machine.kind == "cuda" else 1  # ranks on a processor share its cores
        several = f", times {many} devices" if many > 1 else ""
        return measured.tokens_per_second * many, f"measured on this machine{part}{several}"
    if machine.peak is None:
        return None, "not measured"
    assumed = devices.table().utilisation(parameters)
    mfu = hardware.mfu if hardware.mfu is not None else assumed.mfu
    said = f"{mfu:.0%} of the peak" + (", as given" if hardware.mfu is not None else f" ({assumed.source})")
    if preset.pretrain.engine.gradient_checkpointing and hardware.mfu is None:
        mfu *= devices.table().checkpointing.factor
        said += f", × {devices.table().checkpointing.factor} for gradient checkpointing"
    return mfu * machine.peak * hardware.devices / flops_per_token(preset.model), said


def memory_rows(preset: Preset, how: Computation, machine: Machine) -> list[MemoryRow]:
    """Every strategy with and without checkpointing. One device has nothing to share, so DDP is what it does anyway."""
    rows = []
    for strategy in STRATEGIES:
        changed = how._replace(strategy=strategy if how.ranks > 1 or strategy != "ddp" else "single")
        for checkpointing in (False, True):
            found = memory(preset.model, preset.pretrain, changed._replace(checkpointing=checkpointing))
            total = found.total + machine.base
            row = MemoryRow(
                strategy=strategy,
                checkpointing=checkpointing,
                parts=found._asdict() | {"reserve": machine.base},
                total=total,
                fits=total <= machine.memory,
                chosen=(changed.strategy, checkpointing) == (how.strategy, how.checkpointing),
                possible=checks.computes(preset, how.ranks, machine.kind, strategy),
            )
            rows.append(row)
    return rows


def legal(model: ModelConfig) -> list[str]:
    """What llama.cpp asks of a shape; what does not hold has been refused."""
    row = model.heads * model.head_dim
    said = [
        f"K-quants: rows of {model.width}, {row} and {model.ffn} numbers are whole blocks of {K_QUANT_BLOCK}",
        f"GGUF architecture {model.architecture}, tied embedding, {model.heads}/{model.kv_heads} heads of {model.head_dim}",
    ]
    if model.rope_scaling:
        scaling = model.rope_scaling
        said.append(f"RoPE scaling {scaling.method} × {scaling.factor:g} from {scaling.original_context:,} tokens")
    return [*said, *serving_notes(model)]


def warnings(plan: StagePlan) -> list[str]:
    """What can work and still ought to be thought over."""
    said = []
    if plan.parameter_budget and not plan.parameter_budget[0] <= plan.parameters <= plan.parameter_budget[1]:
        least, most = (f"{count / 1e6:,.0f}M" for count in plan.parameter_budget)
        said.append(f"{plan.parameters / 1e6:,.0f}M parameters are outside of the stage's budget of {least} to {most}")
    if plan.epochs is not None and plan.epochs > checks.MANY_EPOCHS:
        said.append(
            f"{plan.epochs:.1f} passes over the same data; beyond {checks.MANY_EPOCHS} a pass is worth less and less"
            " (arXiv 2305.16264): add sources"
        )
    if plan.tokens and plan.tokens < DEFAULT_TOKENS_PER_PARAMETER * plan.parameters and not plan.continues:
        said.append(
            f"{plan.tokens / plan.parameters:.2g} tokens a parameter; {DEFAULT_TOKENS_PER_PARAMETER} are the least that pay"
            " off (arXiv 2203.15556)"
        )
    if plan.hours is not None and plan.max_hours is not None and plan.hours > plan.max_hours:
        said.append(f"{plan.hours:,.1f} hours are more than the {plan.max_hours:g} that the stage is to take: more devices?")
    return said


def as_json(plan: Plan) -> str:
    """The plan as JSON text."""
    return json.dumps(plan.model_dump(mode="json"), indent=2)
