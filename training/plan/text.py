"""A plan on the terminal, in 100 columns."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from codelm.corpus.report import size
from training.plan.plan import MemoryRow, Plan, StagePlan

PARTS = {
    "parameters": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "buffers": "buffers",
    "activations": "activations",
    "logits": "logits",
    "reserve": "reserve",
}
"""Part of the memory → its heading."""
UNKNOWN = "–"
IMPOSSIBLE = "✗"


def render(plan: Plan) -> RenderableType:
    """All stages in one table, then each by itself."""
    return Group(f"[bold]{plan.description}[/]", summary(plan), *(part for stage in plan.stages for part in details(stage)))


def summary(plan: Plan) -> Table:
    """A line for each stage, and the sum."""
    table = numbers("stage", "parameters", "as reported", "tokens", "on", "tokens/s", "hours", "kWh", "$", left=(0, 4))
    for stage in plan.stages:
        table.add_row(
            f"{stage.id} {stage.name}",
            short(stage.parameters),
            short(stage.report_parameters) if stage.report_parameters else UNKNOWN,
            short(stage.tokens),
            f"{stage.devices} × {stage.device}",
            short(stage.tokens_per_second),
            number(stage.hours),
            number(stage.kwh),
            number(stage.cost),
        )
    if len(plan.stages) > 1:
        table.add_section()
        sums = (number(plan.total(name)) for name in ("hours", "kwh", "cost"))
        table.add_row("all", "", "", "", "", "", *sums)
    return table


def details(stage: StagePlan) -> Iterator[RenderableType]:
    """One stage."""
    yield Rule(f"[bold]stage {stage.id}: {stage.name}[/]", align="left", style="dim")
    yield Text(stage.aim, style="italic")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, said in facts_of(stage).items():
        facts.add_row(name, Text(said))
    yield facts
    yield Padding(memory_table(stage), (1, 0))
    if not all(row.possible for row in stage.memory):
        yield Text(f"{IMPOSSIBLE} no engine does this with the stage's settings", style="dim")
    for warning in stage.warnings:
        yield Text.assemble(("warning: ", "yellow"), warning)
    yield from advice(stage)


def facts_of(stage: StagePlan) -> Mapping[str, str]:
    """Name → what there is to say."""
    model = stage.model
    facts = {
        "shape": f"{model.layers} × {model.width}, {model.heads}/{model.kv_heads} heads × {model.head_dim}, FFN {model.ffn:,},"
        f" {model.vocab_size:,} entries, {model.context_length:,} tokens of context: {stage.parameters:,} parameters",
    }
    if stage.report_shape and stage.report_parameters:
        times = stage.report_parameters / stage.parameters
        facts["as reported"] = (
            f"{stage.report_shape}: {stage.report_parameters:,} parameters with SwiGLU, {times:.1f} × as many"
        )
    steps = f"{stage.steps:,} steps of {stage.tokens_per_step:,} tokens" if stage.steps else "as many steps as the minutes hold"
    facts |= {
        "work": f"{steps}, {short(stage.flops_per_token)} FLOPs a token",
        "device": f"{stage.devices} × {stage.device_title}, {size(stage.device_memory)} each, {engine_said(stage)}",
        "speed": f"{stage.tokens_per_second:,.0f} tokens/s, {stage.speed_source}"
        if stage.tokens_per_second
        else "not measured",
        "memory": memory_said(stage),
        "files": f"checkpoint {size(stage.checkpoint_bytes)}, "
        + ", ".join(f"{name} {size(count)}" for name, count in stage.gguf_bytes.items()),
        "legal": "; ".join(stage.legal),
        "data": data_said(stage),
    }
    if stage.sft_samples:
        facts["then"] = f"fine-tuning on {stage.sft_samples:,} samples"
    facts["gate"] = gate_said(stage)
    return facts


def engine_said(stage: StagePlan) -> str:
    """How a step is computed."""
    checkpointing = any(row.chosen and row.checkpointing for row in stage.memory)
    said = f"{stage.strategy}, " if stage.devices > 1 else ""
    return f"{said}micro-batches of {stage.micro_batch_size}{', gradient checkpointing' if checkpointing else ''}"


def memory_said(stage: StagePlan) -> str:
    """Estimate and measurement."""
    estimate = f"{size(stage.memory_estimated)} of a device, estimated"
    if stage.memory_measured is None:
        return estimate
    return f"{size(stage.memory_measured)} measured on this machine, {estimate}"


def data_said(stage: StagePlan) -> str:
    """What is needed, what is there, and where it is to come from."""
    needed = f"{short(stage.tokens)} tokens"
    if stage.tokens_present is None:
        note = f" ({stage.data_note})" if stage.data_note else ""
        return f"{needed} needed{note}; from codelm corpus build --config {stage.corpus} --run RUN"
    there = f"{'' if stage.tokens_exact else 'about '}{short(stage.tokens_present)} in the run folder"
    return f"{needed} of {there}" + (f", {stage.epochs:.2f} epochs" if stage.epochs is not None else "")


def gate_said(stage: StagePlan) -> str:
    """What the evaluation must say."""
    gate = stage.gate
    said = [
        f"at most {gate.max_bits_per_byte:g} bits per byte" if gate.max_bits_per_byte else "",
        f"at least {gate.min_exact_match:.0%} exact match" if gate.min_exact_match else "",
        f"better than stage {stage.after}" if gate.better_than_previous and stage.after else "",
    ]
    return ", ".join(filter(None, said)) or "none"


def memory_table(stage: StagePlan) -> Table:
    """Each strategy without checkpointing, part by part, and with it in sum."""
    heads = [*PARTS.values(), "all", "recomputed"]
    table = numbers("in GB", *heads)
    by_strategy: dict[str, dict[bool, MemoryRow]] = {}
    for row in stage.memory:
        by_strategy.setdefault(row.strategy, {})[row.checkpointing] = row
    for strategy, rows in by_strategy.items():
        parts = [f"{rows[False].parts[part] / 1e9:.2f}" for part in PARTS]
        table.add_row(
            strategy if rows[False].possible else f"{strategy} {IMPOSSIBLE}",
            *parts,
            *(total(rows[checkpointing]) for checkpointing in (False, True)),
        )
    return table


def total(row: MemoryRow) -> Text:
    """The sum: bold where it is chosen, red where it does not fit."""
    style = "red" if not row.fits else "bold green" if row.chosen else ""
    return Text(f"{row.total / 1e9:.2f}", style=style)


def advice(stage: StagePlan) -> Iterator[RenderableType]:
    """How to go on."""
    for said, lines in ((f"{rounds_said(stage)}; after each look at", review_of(stage)), ("Stop when", stop_of(stage))):
        yield Text(said)
        for line in lines:
            yield Padding(Text(f"• {line}"), (0, 0, 0, 2))


def rounds_said(stage: StagePlan) -> str:
    """How often to train it."""
    return "Train it once" if stage.rounds == 1 else f"Train it in at least {stage.rounds} rounds, with one change each"


def review_of(stage: StagePlan) -> list[str]:
    """What to look at between the rounds."""
    return stage.review or ["the loss curve, the scores, and plan against actual, on the review page"]


def stop_of(stage: StagePlan) -> list[str]:
    """When the rounds are over."""
    return stage.stop or ["a round is less than 1 % better than the best one before"]


def numbers(*columns: str, left: tuple[int, ...] = (0,)) -> Table:
    """A table whose columns are numbers, but for some."""
    table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for place, column in enumerate(table.columns):
        column.justify = "left" if place in left else "right"
        column.no_wrap = True
    return table


def short(count: float | None) -> str:
    """A large number for people: 17.8M, 1.5B."""
    if count is None:
        return UNKNOWN
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}" if count < 999.5 * scale else f"{count / scale:,.0f}{unit}"
    return f"{count:.0f}"


def number(value: float | None) -> str:
    """A number with as many digits as it is worth."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"
