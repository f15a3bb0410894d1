"""`codelm calibrate`: teaches a GGUF when it is right, on held-out files, so that it can be silent where it is not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from codelm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codelm.evaluation.held_out import HeldOut
    from codelm.evaluation.places import Place
    from codelm.progress import Progress

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

GROUPS = 10
"""Into so many the held-out files are dealt out: on three of five the gate is fitted, on two it is checked."""
MIN_FILES = 5
ASKED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Answered(NamedTuple):
    """A place: the group of its file, what the gate sees, what one would go by without it, and whether the line was right."""

    group: int
    features: dict[str, float]
    plain: float
    right: bool


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A file made by `codelm export`; it is changed.")],
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, for its held-out files.")],
    places: Annotated[int, typer.Option(min=100, help="Cursors: half for whole lines, half for ends of lines.")] = 4000,
    precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="One that must be within reach: else exit code 1.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the files and places.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="As `codelm serve` takes them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Fit the gate that decides whether a completion is shown, and store it in MODEL.gguf.

    Lines are written at cursors in held-out files, as they are served. On three fifths of the files the gate learns to tell the
    right ones; on the others it is checked: the table says what each precision that may be asked for (`codelm serve
    --precision`) gives there, MODEL-gate.png shows it. A run that fails or is interrupted leaves MODEL.gguf as it was.

    Example: codelm calibrate runs/mine/export/nano-q8_0.gguf --run runs/mine
    """
    from cli.progress import Display
    from codelm.evaluation.held_out import HeldOut
    from codelm.stage import lock

    with lock(run, create=False), Display() as display:
        held_out = HeldOut(run / "corpus", run / "tokens")
        with display.stage("calibrate") as progress:
            answered = ask(model, held_out, places, seed, threads, progress)
        summary = learn(model, answered, ASKED if precision is None else sorted({*ASKED, precision}))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        show(summary, picture_of(model))
    if precision is not None and precision > summary["best_precision"]:
        typer.echo(f"precision {precision:.0%} is not within reach: the highest is {summary['best_precision']:.0%}", err=True)
        raise typer.Exit(1)


def learn(model: Path, answered: "Sequence[Answered]", asked: "Sequence[float]") -> dict[str, Any]:
    """Fits the gate, checks it, draws the picture and writes the gate into the file. Returns what to tell of it.

    Raises UserError if there is too little to fit on, or if the file is damaged; it is then what it was.
    """
    import numpy as np

    from codelm.evaluation import calibration
    from codelm.export.bundle import PREFIX
    from codelm.export.rewrite import set_text
    from serving.gate import FEATURES, Gate

    groups = np.array([one.group for one in answered], dtype=np.int64)
    features = np.array([[one.features[name] for name in FEATURES] for one in answered], dtype=np.float64)
    right = np.array([one.right for one in answered], dtype=bool)
    learned = groups % 5 < 3
    fitted = calibration.fit(features[learned], right[learned], groups[learned])
    gate = Gate.model_validate({"features": FEATURES, "places": int(learned.sum()), **fitted.to_json()})
    others = [one for one, known in zip(answered, learned, strict=True) if not known]
    told = np.array([gate.probability(one.features) for one in others])
    rows = calibration.check(fitted, told, right[~learned], asked)
    set_text(model, f"{PREFIX}gate", gate.model_dump_json())
    calibration.plot(picture_of(model), told, right[~learned], np.array([one.plain for one in others]))
    return {
        "places": len(answered),
        "fitted_on": gate.places,
        "right": float(right.mean()),
        "calibration_error": calibration.calibration_error(told, right[~learned]),
        "best_precision": gate.best_precision,
        "table": [row._asdict() for row in rows],
    }


def picture_of(model: Path) -> Path:
    """Where the plot goes: beside the model."""
    return model.with_name(f"{model.stem}-gate.png")


def ask(model: Path, held_out: "HeldOut", places: int, seed: int, threads: int | None, progress: "Progress") -> list[Answered]:
    """What the model writes at places in held-out files, as an editor gets it while somebody types. Raises UserError."""
    from codelm.evaluation.measures import is_exact
    from serving.engine import Engine
    from serving.gate import features_of
    from serving.llamacpp import LlamaCpp
    from serving.request import CompletionRequest, TriggerKind

    engine = Engine(LlamaCpp(model, threads))
    try:
        drawn = draw(held_out, places, seed)
        answered = []
        for done, (group, path, place) in enumerate(drawn):
            progress(done, len(drawn))
            request = CompletionRequest(
                prefix=place.prefix, suffix=place.suffix, path=path, trigger=TriggerKind.AUTOMATIC, max_lines=1
            )
            completion = engine.submit(request).future.result()
            features = features_of(request, completion)
            answered.append(Answered(group, features, completion.confidence, is_exact(completion.text, place)))
        progress(len(drawn), len(drawn))
        return answered
    finally:
        engine.close()


def draw(held_out: "HeldOut", count: int, seed: int) -> "list[tuple[int, str, Place]]":
    """Group, path and place: the files are dealt out to groups, and each group gives as many places of both kinds.

    Raises UserError if there are too few files.
    """
    import numpy as np

    from codelm.evaluation.places import draw_places

    rows = held_out.rows
    if len(rows) < MIN_FILES:
        raise UserError(
            f"{held_out.corpus} has {len(rows)} held-out files", f"at least {MIN_FILES} are needed: add sources to it"
        )
    paths = {row["content"]: row["path"] for row in rows}
    order = np.random.Generator(np.random.Philox(key=[seed, 2])).permutation(len(rows))
    groups = min(GROUPS, len(rows))
    drawn = []
    for group in range(groups):
        texts = [rows[index]["content"] for index in order[group::groups]]
        for whole_line in (True, False):
            for place in draw_places(texts, count // (2 * groups), seed, whole_line):
                drawn.append((group, paths[place.prefix + place.rest + place.suffix], place))
    return drawn


def show(summary: dict[str, Any], picture: Path) -> None:
    """The table, on the terminal."""
    from rich.table import Table

    from cli.console import console

    learned = summary["fitted_on"]
    table = Table(
        title=f"{summary['places'] - learned:,} places in other files than the {learned:,} learned from; "
        f"{summary['right']:.1%} of all lines are right; calibration error {100 * summary['calibration_error']:.1f} points"
    )
    for name in ("precision asked", "found", "shown", "confidence from"):
        table.add_column(name, justify="right")
    for row in summary["table"]:
        if row["threshold"] is None:
            table.add_row(f"{row['asked']:.0%}", f"out of reach, at most {summary['best_precision']:.0%}", "", "")
            continue
        found = "nothing shown" if row["precision"] is None else f"{row['precision']:.1%} of {row['shown']}"
        table.add_row(f"{row['asked']:.0%}", found, f"{row['coverage']:.1%}", f"{row['threshold']:.2f}")
    console().print(table)
    typer.echo(f"the gate is in the file; see {picture}")
