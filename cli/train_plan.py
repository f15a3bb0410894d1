"""`codelm train plan`: what a training would hold, need, take and cost, before anything is spent."""

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from codelm.errors import UserError

if TYPE_CHECKING:
    from codelm.config.stages import StagesConfig
    from training.plan.plan import Plan

Stages = Annotated[str | None, typer.Option("--stages", metavar="0,1,…", help="Which of the stages. Default: all.")]
Config = Annotated[str, typer.Option("--config", metavar="NAME|FILE.yaml", help="The stages.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="A setting of the stages' presets, such as pretrain.learning_rate=1e-3, or of the stages, such as"
        " hardware.price_per_hour=2.",
    ),
]  # fmt: skip
Shape = Annotated[
    Literal["budget", "report"], typer.Option(help="The presets, or the shapes that were planned first, which are larger.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="RTX-4090, A6000, A100-40, A100-80, H100, H200, or here: this machine.")
]
Devices = Annotated[int | None, typer.Option(min=1, help="How many of them.")]

DEFAULT = "progressive"
"""The stages that come along."""
WIDTH = 100
"""Columns of text that goes into a file."""


def plan(
    stages: Stages = None,
    config: Config = DEFAULT,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Plan one preset, on this machine, instead of stages.")
    ] = None,
    settings: Set = None,
    shape: Shape = "budget",
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="A run folder, whose data to plan with.")] = None,
    device: Device = None,
    devices: Devices = None,
    measure: Annotated[
        bool | None,
        typer.Option("--measure/--no-measure", help="Train for 20 seconds here to see. Default: what is for this machine."),
    ] = None,
    output: Annotated[Literal["text", "json", "html"], typer.Option("--format", help="Of what is written.")] = "text",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it. Default: the terminal.")] = None,
) -> None:
    """Dry run: parameters, memory, speed, hours, energy, cost, file sizes, data, and what to look at between rounds.

    What cannot work is refused, with the fix.

    Example: codelm train plan --stages 0,1 --device H100

    codelm train plan --preset nano --run runs/mine

    codelm train plan --format html --out plan.html
    """
    from cli.progress import Display
    from codelm.progress import silent
    from training.plan.plan import make_plan
    from training.stages.rounds import check_shapes

    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}", "give a file in a folder that there is")
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder", f"give a file in it, such as {out / 'plan.html'}")
    if measure and device is not None and device.lower() != "here":
        raise UserError(f"--measure is for this machine, not for {device}", "leave out --device, or --measure")
    if measure and device is None:
        device = "here"
    config_ = configuration(config, preset, stages, settings, device, devices)
    chosen = config_.chosen(stages)
    check_shapes(config_, chosen, shape, run)
    measures = measure is not False and any(stage.hardware.device.lower() == "here" for stage in chosen)
    with contextlib.ExitStack() as shown:
        progress = shown.enter_context(shown.enter_context(Display()).stage("measure")) if measures else silent
        made = make_plan(config_.description, chosen, shape, run, measure, progress)
    write(made, output, out)


def configuration(
    config: str, preset: str | None, stages: str | None, settings: list[str] | None, device: str | None, devices: int | None
) -> "StagesConfig":
    """The stages with what the options change in them."""
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset, merged
    from codelm.config.stages import Stage, load_stages, stage_of

    hardware: dict[str, Any] = {"device": device, "devices": devices}
    given = {"hardware": {name: value for name, value in hardware.items() if value is not None}}
    changes = merged(given, parse_settings(settings or [], Preset, Stage))
    if others := sorted(changes.keys() - Stage.model_fields.keys()):
        raise UserError(f"--set: {others[0]} is no part of a stage", "give it to `codelm train distill` or `train lora`")
    return (stage_of(preset) if preset else load_stages(config)).with_changes(changes, stages)


def write(plan: "Plan", output: str, out: Path | None) -> None:
    """Puts a plan on the terminal or into a file."""
    from rich.console import Console

    from codelm.stage import write_atomically
    from training.plan.page import page
    from training.plan.plan import as_json
    from training.plan.text import render

    if output == "text" and out is None:
        Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(render(plan))
        return
    if output == "text":
        text_file = io.StringIO()
        Console(file=text_file, width=WIDTH).print(render(plan))
        text = text_file.getvalue()
    else:
        text = (page(plan) if output == "html" else as_json(plan)) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text)
        typer.echo(out)
