"""`codelm evaluate`: what a run's model is worth on held-out files, and what others are beside it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codelm.errors import UserError

if TYPE_CHECKING:
    from cli.served import Served
    from codelm.evaluation.systems import TrainedModel

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def evaluate(
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, with its corpus and tokens.")],
    stage: Annotated[str, typer.Option(metavar="NAME", help="The training whose last checkpoint is meant.")] = "pretrain",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Another checkpoint, or a training's folder or a run for its last one.")
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="The running mean of the weights that the training kept (pretrain.ema).")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE.gguf", help="A GGUF, through llama.cpp as it is served: no bits per byte.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Beside it: a 5-gram of the same corpus, and the most similar earlier line.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Beside it: a run, a checkpoint or a GGUF; may be given again.")
    ] = None,
    places: Annotated[int, typer.Option(min=1, help="Cursors for whole lines, and as many for ends of lines.")] = 256,
    tokens: Annotated[int, typer.Option(min=1, help="Of the validation split, for bits per byte.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Draws the places.")] = 0,
    infilling: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl.gz", help="HumanEval-Infilling, single-line: exact lines, nothing is run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Bits per byte and single-line exact match on the validation split, which shares no package with training.

    Lines are written greedily: whole lines from their indentation on, and the ends of lines from anywhere in them. The
    scores, with 95 % confidence intervals, go to RUN/evaluate; of another stage, checkpoint or GGUF to
    RUN/evaluate-NAME, of the running mean to RUN/evaluate-average.

    Examples: codelm evaluate --run runs/mine --baselines

    codelm evaluate --run runs/mine --model runs/mine/export/nano-q8_0.gguf --beside runs/mine
    """
    from rich.console import Console

    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.evaluation.evaluate import ANSWERS, FILE, EvaluateConfig
    from codelm.stage import lock

    about = model or checkpoint
    if checkpoint and model:
        raise UserError("--checkpoint and --model are given both", "give one, and the other as --beside")
    if average and about:
        raise UserError("--average is of the run's own training", f"leave out --average, or {about}")
    config = EvaluateConfig(seed=seed, tokens=tokens, places=places)
    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        folder.results_of(about.resolve().stem if about else stage, average)
        first = system_at(about) if about else folder.trained_model(stage, average)
        systems = [first, *(folder.baselines(first.context) if baselines else ()), *map(system_at, beside or ())]
        names = [system.name for system in systems]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{repeated} would stand in the table twice", "give each model once")
        folder.run_evaluate(config, systems, infilling)
    result = json.loads((folder.evaluate / FILE).read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    Console().print(table(result))
    typer.echo(f"see {folder.evaluate / FILE}, and {folder.evaluate / ANSWERS} for what each wrote")


def system_at(path: Path, name: str | None = None) -> "TrainedModel | Served":
    """A GGUF, a checkpoint, or the newest one of a training or a run. Raises UserError if it is none of them.

    name: of the latter ones in the table, instead of the path.
    """
    from codelm.checkpoints import given
    from codelm.evaluation.systems import TrainedModel
    from codelm.tokenizer import find

    if path.suffix == ".gguf":
        from cli.served import Served

        return Served(path)
    checkpoint = given(path, "--checkpoint or --beside")
    return TrainedModel(name or str(path), checkpoint, find(checkpoint))


def table(result: dict[str, Any]) -> Any:
    """All scores, a row for each system."""
    from rich.table import Table

    held_out = result["held_out"]
    kinds = held_out["places"]
    drawn = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.items())
    found = Table(
        title=f"{held_out['files']:,} held-out files of {held_out['repositories']:,} repositories; places: {drawn}",
        caption="exact match of each kind of place; edit similarity and ms of each",
    )
    for name in ("", "bits per byte", *(kind.replace("_", " ") for kind in kinds), "similarity", "ms"):
        found.add_column(name, justify="right" if name else "left")
    for system in result["systems"]:
        found.add_row(*cells(system, list(kinds)))
    return found


def cells(system: dict[str, Any], kinds: list[str]) -> list[str]:
    """One row of it: exact match with half of its interval, edit similarity and milliseconds for each kind of places."""
    bits, scores = system["bits_per_byte"], [system[kind] for kind in kinds]
    measured = [one for one in scores if one]
    return [
        system["name"],
        f"{bits['value']:.3f} ± {half(bits):.3f}" if bits else "–",
        *(f"{one['exact_match']['value']:.1%} ± {100 * half(one['exact_match']):.1f}" if one else "no line" for one in scores),
        " / ".join(f"{one['edit_similarity']['value']:.0%}" for one in measured),
        " / ".join(f"{one['milliseconds']:.1f}" for one in measured),
    ]


def half(estimate: dict[str, float]) -> float:
    """Half of a confidence interval."""
    return (estimate["high"] - estimate["low"]) / 2
