"""`codelm runs`: look at trainings, that go on or have ended, one by one or side by side."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import console, plain_table

if TYPE_CHECKING:
    from training.watch_runs import Run

app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, or the folder of one of its trainings.")]
REFRESH_SECONDS = 0.5
COLUMNS = ("name", "preset", "stage", "state", "steps", "tokens", "loss", "bits/byte", "exact", "tokens/s", "age")


@app.callback()
def runs() -> None:
    """Look at trainings, that go on or have ended, one by one or side by side."""


@app.command("list")
def list_(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Where to look.")] = Path("runs"), as_json: AsJson = False
) -> None:
    """List all trainings below a folder, the newest first.

    Example: codelm runs list
    """
    from training.watch_runs import find_runs

    found = find_runs(root)
    if as_json:
        print_json([run.summary() for run in found])
    elif found:
        print_table(found)
    else:
        typer.echo(f"{root} holds no training; start one with `codelm quickstart`, or `codelm train pretrain`")


def print_table(found: "Iterable[Run]") -> None:
    """Runs, a row each, and below them what is wrong with the broken ones."""
    from rich.table import Table
    from rich.text import Text

    from cli.live import duration, metric

    style = {"running": "green", "broken": "red", "interrupted": "yellow", "finished": ""}
    out, runs = console(), list(found)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 4 else "right", no_wrap=True, overflow="ellipsis")
    for run in runs:
        row = run.summary()
        planned = f"/{row['steps_planned']:,}" if isinstance(row["steps_planned"], int) else ""
        table.add_row(
            Text(run.name),
            Text(str(row["preset"] or "–")),
            Text(run.stage),
            Text(run.state, style=style[run.state]),
            f"{row['steps']:,}{planned}",
            metric(row["tokens"]),
            figure(row["loss"]),
            figure(row["bits_per_byte"]),
            figure(row["exact_match"], "{:.1%}"),
            figure(row["tokens_per_second"], "{:,.0f}"),
            duration(row["age_seconds"]),
        )
    out.print(table)
    for run in runs:
        for problem in run.problems if run.state == "broken" else []:
            out.print(Text(f"{run.folder}: {problem}", style="red"), soft_wrap=True)


@app.command()
def show(run: RunDir, as_json: AsJson = False) -> None:
    """Show one training: its settings that differ from the preset, its curve, evaluations, checkpoints and files.

    Example: codelm runs show runs/mine
    """
    from training.watch_runs import the_run

    found = the_run(run)
    if as_json:
        print_json(detailed(found))
    else:
        print_run(found)


def detailed(run: "Run") -> dict[str, Any]:
    """All that is told of a run."""
    counts = run.manifest.counts if run.manifest else {}
    return run.summary() | {
        "changed_settings": {key: {"preset": before, "run": now} for key, (before, now) in run.changes().items()},
        "evaluations": run.evaluations,
        "checkpoints": [path.name for path in run.checkpoints],
        "best": run.best or None,
        "last_row": next((row for row in reversed(run.rows) if "loss" in row), None),
        "manifest": counts or None,
        "files": run.files(),
    }


def print_run(run: "Run") -> None:
    """A run for people."""
    from cli.live import RunView

    out = console()
    table = plain_table(f"{run.name}: {run.preset.get('name', run.stage)}, {run.state}")
    if run.stopped:
        table.add_row("stopped by", run.stopped)
    for problem in run.problems:
        table.add_row("problem", problem)
    for key, (before, now) in run.changes().items():
        table.add_row(key, f"{now} (preset: {before})")
    if run.best:
        table.add_row("best", str(run.best.get("checkpoint")))
    table.add_row("files", "\n".join(run.files()))
    out.print(table)
    out.print()
    out.print(RunView(run.folder))


@app.command()
def watch(run: RunDir) -> None:
    """Watch a training that goes on, from another terminal; ends with it.

    Example: codelm runs watch runs/mine
    """
    from rich.console import Console
    from rich.live import Live

    from cli.live import RunView, evaluation
    from training.watch_runs import the_run

    found = the_run(run)
    out, view = Console(), RunView(found.folder)
    try:
        if out.is_terminal:
            with Live(view, console=out, auto_refresh=False) as live:
                live.refresh()
                while is_running(found):
                    time.sleep(REFRESH_SECONDS)
                    live.refresh()
                live.refresh()
        else:
            told = -1
            going_on = True
            while going_on:
                going_on = is_running(found)
                now = view.run()
                for row in now.evaluations if now else []:
                    if row["step"] > told:
                        typer.echo(evaluation(row, best=False))
                        told = row["step"]
                if going_on:
                    time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    ended = the_run(found.folder)
    typer.echo(f"{ended.name}: {ended.state} at step {ended.steps:,}" + (f", {ended.stopped}" if ended.stopped else ""))


def is_running(run: "Run") -> bool:
    """Whether it goes on now."""
    from codelm import run_folder

    return run_folder.is_running(run.folder)


@app.command()
def compare(
    first: RunDir,
    others: Annotated[list[Path], typer.Argument(metavar="DIR…", help="The ones to compare it with.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page; its picture goes beside it as FILE.png.")] = Path(
        "compare.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Compare trainings: curves as a page that needs no network and as a picture, and the settings in which they differ.

    Example: codelm runs compare runs/mine runs/other --out compare.html
    """
    from codelm.errors import UserError
    from training.watch_compare import write
    from training.watch_runs import differences, the_run

    if out.suffix != ".html":
        raise UserError(f"--out {out} is no page", "give a name that ends with .html")
    found = [the_run(path) for path in (first, *others)]
    picture = write(out, found)
    if as_json:
        print_json(
            {
                "runs": [run.summary() for run in found],
                "differing_settings": differences(found),
                "page": str(out),
                "picture": str(picture),
            }
        )
        return
    print_table(found)
    table = plain_table("Settings that differ" if differences(found) else "No settings differ")
    for key, values in differences(found).items():
        table.add_row(key, "  |  ".join(str(value) for value in values))
    console().print(table)
    typer.echo(f"{out} and {picture}")


def figure(value: float | None, form: str = "{:.3f}") -> str:
    """A number, or that there is none."""
    return "–" if value is None else form.format(value)


def print_json(value: Any) -> None:
    """As JSON that every reader takes: what is not a number is null."""
    import json

    typer.echo(json.dumps(finite(value), indent=2, default=str))


def finite(value: Any) -> Any:
    """A value without infinities and what is not a number."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list) else value
