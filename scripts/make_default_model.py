"""Makes the model that codelm brings along of a finished run: evaluates, exports and calibrates it, and packs its Q8_0 file.

    python scripts/make_default_model.py runs/default --beside runs/five-minutes
    python scripts/make_default_model.py runs/default --beside runs/five-minutes --rescore   # only measures the one that stands

Writes codelm/default_model/bundle. The corpus must have been built with the default licence policy
(`codelm corpus build --config default --run runs/default`). Each step that was done before is skipped.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli.calibrate import ASKED, ask, learn
from cli.evaluate import system_at
from cli.progress import Display
from cli.served import Served
from cli.stages import RunFolder, read_back
from codelm.config.preset import load_preset
from codelm.default_model.locate import BUNDLE, default_model
from codelm.default_model.pack import check, pack, rescore
from codelm.errors import UserError
from codelm.evaluation.evaluate import EvaluateConfig
from codelm.export.bundle import PRESET
from codelm.stage import Manifest, lock

if TYPE_CHECKING:
    from codelm.evaluation.systems import TrainedModel


def make(run: Path, stage: str, beside: list[Path], places: int, tokens: int, asked: int, bundle: Path) -> Path:
    """The packed GGUF. stage: a training in the run. beside: other runs, checkpoints or GGUF files for the table.

    asked: places that the gate is fitted on and checked at; a model that gets too few of them right has none.
    """
    config = EvaluateConfig(places=places, tokens=tokens)
    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        folder.results_of(stage)
        evaluation = folder.evaluate
        trained = folder.trained_model(stage)
        folder.run_evaluate(config, [trained, *folder.baselines(trained.context), *named(beside)])
        folder.run_export(stage=stage)
        model = folder.bundle(stage)
        check(model, Manifest.read(folder.corpus))
        try:
            with display.stage("calibrate") as progress:
                learn(model, ask(model, folder.held_out(), asked, 0, None, progress), ASKED)
        except UserError as error:
            print(f"no gate: {error}", file=sys.stderr)
        folder.evaluate = evaluation.with_name(f"evaluate-{model.stem}")
        folder.run_evaluate(config, [Served(model)])
        pack(bundle, model, run / stage, folder.corpus, evaluation, folder.evaluate)
    return default_model(bundle)


def named(paths: list[Path]) -> "list[TrainedModel | Served]":
    """Other runs, checkpoints or GGUF files by their last names: the record tells no paths of this machine."""
    return [system_at(path, path.name) for path in paths]


def measure_again(run: Path, beside: list[Path], places: int, tokens: int, bundle: Path) -> Path:
    """The packed GGUF with other scores. run: with a corpus, and its tokens by the model's tokenizer."""
    config, model = EvaluateConfig(places=places, tokens=tokens), default_model(bundle)
    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        checkpoint = read_back(model, run)
        trained = system_at(checkpoint, load_preset(str(checkpoint / PRESET)).name)
        folder.results_of(checkpoint.name)
        evaluation = folder.evaluate
        folder.run_evaluate(config, [trained, *folder.baselines(trained.context), *named(beside)])
        folder.results_of(model.stem)
        folder.run_evaluate(config, [Served(model)])
        rescore(bundle, evaluation, folder.evaluate)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder, with a finished pretraining")
    parser.add_argument("--stage", default="pretrain", help="the training's folder in the run")
    parser.add_argument(
        "--beside", type=Path, action="append", default=[], help="another run, checkpoint or GGUF for the table"
    )
    parser.add_argument("--places", type=int, default=1_000, help="cursors of each kind")
    parser.add_argument("--tokens", type=int, default=500_000, help="of the validation split, for bits per byte")
    parser.add_argument("--gate-places", type=int, default=4_000, help="cursors that the gate is fitted on and checked at")
    parser.add_argument(
        "--rescore", action="store_true", help="measure the model that stands again, and leave its weights alone"
    )
    parser.add_argument("--out", type=Path, default=BUNDLE, help="another folder than that of the default model")
    arguments = parser.parse_args()
    try:
        measured = (arguments.beside, arguments.places, arguments.tokens)
        if arguments.rescore:
            path = measure_again(arguments.run, *measured, arguments.out)
        else:
            path = make(arguments.run, arguments.stage, *measured, arguments.gate_places, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    total = sum(file.stat().st_size for file in path.parent.iterdir())
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, with its record {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
