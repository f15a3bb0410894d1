"""Makes the model that codelm brings along of a finished run: evaluates it, exports it, and packs its Q8_0 file.

    python scripts/make_default_model.py runs/default --beside runs/five-minutes

Writes codelm/default_model/bundle. The corpus must have been built with the default licence policy
(`codelm corpus build --config default --run runs/default`). Each step that was done before is skipped.
"""

import argparse
import sys
from pathlib import Path

from cli.evaluate import system_at
from cli.progress import Display
from cli.served import Served
from cli.stages import RunFolder
from codelm.default_model.locate import BUNDLE, default_model
from codelm.default_model.pack import check, pack
from codelm.errors import UserError
from codelm.evaluation.evaluate import EvaluateConfig
from codelm.stage import Manifest, lock


def make(run: Path, beside: list[Path], places: int, tokens: int, bundle: Path) -> Path:
    """The packed GGUF. beside: other runs, checkpoints or GGUF files for the table."""
    config = EvaluateConfig(places=places, tokens=tokens)
    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        evaluation = folder.evaluate
        folder.run_evaluate(config, [folder.trained_model(), *folder.baselines(), *map(system_at, beside)])
        folder.run_export()
        model = folder.bundle()
        check(model, Manifest.read(folder.corpus))
        folder.evaluate = evaluation.with_name(f"evaluate-{model.stem}")
        folder.run_evaluate(config, [Served(model)])
        pack(bundle, model, folder.pretrain, folder.corpus, evaluation, folder.evaluate)
    return default_model(bundle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder, with a finished pretraining")
    parser.add_argument(
        "--beside", type=Path, action="append", default=[], help="another run, checkpoint or GGUF for the table"
    )
    parser.add_argument("--places", type=int, default=1_000, help="cursors of each kind")
    parser.add_argument("--tokens", type=int, default=500_000, help="of the validation split, for bits per byte")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="another folder than that of the default model")
    arguments = parser.parse_args()
    try:
        path = make(arguments.run, arguments.beside, arguments.places, arguments.tokens, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    total = sum(file.stat().st_size for file in path.parent.iterdir())
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, with its record {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
