"""The stages of a run folder, for `codelm quickstart` and for the commands that run one of them."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.progress import Display
from cli.ranks import leads
from codelm.config.corpus import CorpusConfig
from codelm.config.preset import Preset, load_preset
from codelm.errors import UserError
from codelm.progress import Progress
from codelm.run_folder import AVERAGE
from codelm.stage import Manifest, lock

if TYPE_CHECKING:
    from codelm.evaluation.evaluate import EvaluateConfig
    from codelm.evaluation.held_out import HeldOut
    from codelm.evaluation.systems import System, TrainedModel


class RunFolder:
    """Where each stage of a run lies, and how to run it."""

    def __init__(self, path: Path, display: Display) -> None:
        self.path = path
        self.display = display
        self.corpus, self.tokenizer, self.tokens = path / "corpus", path / "tokenizer", path / "tokens"
        self.pretrain, self.distill, self.lora = path / "pretrain", path / "distill", path / "lora"
        self.evaluate, self.export = path / "evaluate", path / "export"

    def build_corpus(self, config: CorpusConfig) -> Manifest:
        """The corpus stage."""
        from codelm.corpus.build import build

        with self.display.stage("corpus") as progress:
            return build(self.corpus, config, progress)

    def train_tokenizer(self, preset: Preset) -> Manifest:
        """The tokenizer stage."""
        from codelm.tokenizer import train

        with self.display.stage("tokenizer") as progress:
            return train(self.tokenizer, preset.tokenizer, self.corpus, progress)

    def take_tokenizer(self, source: Path) -> Manifest:
        """The tokenizer stage, with a tokenizer.json that is there already."""
        from codelm.tokenizer import take

        return take(self.tokenizer, source)

    def encode(self) -> Manifest:
        """The tokens stage."""
        from codelm.corpus.tokens import encode

        with self.display.stage("tokens") as progress:
            return encode(self.tokens, self.corpus, self.tokenizer, progress)

    def given(self, path: Path, option: str) -> Path:
        """The checkpoint that an option means; a GGUF is read back by one of the ranks. Raises UserError if there is none."""
        from codelm.checkpoints import given
        from training.engine.ranks import Ranks

        return given(Ranks().first(lambda: read_back(path, self.path)), option)

    def encode_for(self, checkpoint: Path) -> Manifest:
        """The tokens stage, with the tokenizer of a checkpoint if the run has none yet."""
        from codelm.tokenizer import find

        if not self.tokenizer.exists():
            self.take_tokenizer(find(checkpoint))
        return self.encode()

    def run_pretrain(self, preset: Preset, restart: bool, init: Path | None = None, start: Path | None = None) -> Manifest:
        """The pretraining stage. Arguments as of `training.pretrain.pretrain`."""
        from training.pretrain import pretrain

        with self.watched("pretrain", self.pretrain) as progress:
            return pretrain(
                self.pretrain, preset, self.tokens, self.tokenizer, progress, restart, self.display.say, init, start
            )

    def run_distill(self, preset: Preset, teacher: Path, start: Path | None, cache: Path | None, restart: bool) -> Manifest:
        """The distillation stage. Arguments as of `training.distill.distill`."""
        from training.distill import distill

        with self.watched("distill", self.distill) as progress:
            return distill(
                self.distill, preset, self.tokens, self.tokenizer, teacher, progress, restart, self.display.say, start, cache
            )

    def run_lora(self, preset: Preset, base: Path, restart: bool, merge: bool) -> Manifest:
        """The stage of an adapter. Arguments as of `training.lora.lora`."""
        from training.lora import lora

        with self.watched("lora", self.lora) as progress:
            return lora(self.lora, preset, self.tokens, self.tokenizer, base, progress, restart, self.display.say, merge)

    def watched(self, name: str, folder: Path) -> contextlib.AbstractContextManager[Progress]:
        """The progress of a training, with a live view of its folder."""
        from cli.live import RunView

        return self.display.stage(name, RunView(folder))

    def run_evaluate(
        self,
        config: "EvaluateConfig | None" = None,
        systems: "Sequence[System] | None" = None,
        infilling: Path | None = None,
    ) -> Manifest:
        """Evaluation of the checkpoint that pretraining ended with, or of `systems`, the first being what it is about.

        infilling: a set of places besides.
        """
        from codelm.evaluation.evaluate import EvaluateConfig, evaluate

        systems = systems or [self.trained_model()]
        with self.display.stage("evaluate") as progress:
            return evaluate(self.evaluate, config or EvaluateConfig(), systems, self.held_out(), progress, infilling)

    def held_out(self) -> "HeldOut":
        """The validation split."""
        from codelm.evaluation.held_out import HeldOut

        return HeldOut(self.corpus, self.tokens)

    def trained_model(self, stage: str = "pretrain", average: bool = False) -> "TrainedModel":
        """The checkpoint that a training stage ended with, to be evaluated; of a LoRA, the model that it was merged into.

        average: the running mean of its weights.
        """
        from codelm.evaluation.systems import TrainedModel
        from codelm.tokenizer import FILE

        merged = self.path / stage / "merged"
        checkpoint = merged if merged.is_dir() and not average else self.checkpoint(stage, average)
        return TrainedModel(self.preset(stage).name, checkpoint, self.tokenizer / FILE)

    def baselines(self, window: int) -> "list[System]":
        """What any model stands beside, on the run's own corpus. window: tokens that it sees, which these are scored by too."""
        from codelm.evaluation.baselines import Ngram, SimilarLine

        return [Ngram(self.tokens, self.tokenizer, window), SimilarLine()]

    def run_export(
        self, context: int | None = None, stage: str = "pretrain", attribution: bool = False, average: bool = False
    ) -> Manifest:
        """The bundle of the checkpoint that a training stage ended with, with the scores of its evaluation.

        context: tokens to serve, if not those of the training. attribution: with the corpus's index. average: the running mean
        of the weights.
        """
        from codelm.export.export import export

        scores = Manifest.read(self.evaluate).counts
        trained, preset = Manifest.read(self.path / stage), self.preset(stage)
        if average:
            preset = preset.model_copy(update={"name": f"{preset.name}-{AVERAGE}"})
        with self.display.stage("export") as progress:
            return export(
                self.export,
                preset,
                self.checkpoint(stage, average),
                self.corpus,
                self.tokenizer,
                trained,
                scores,
                progress,
                context,
                self.evaluate,
                attribution,
            )

    def preset(self, stage: str = "pretrain") -> Preset:
        """The preset of a training stage."""
        return load_preset(str(self.path / stage / "preset.yaml"))

    def results_of(self, stage: str, average: bool = False) -> None:
        """Makes evaluation and export those of a training stage: of another than pretraining they carry its name.

        average: those of the running mean of the weights, whose name they carry too.
        """
        marks = [stage] * (stage != "pretrain") + [AVERAGE] * average
        self.evaluate, self.export = (
            folder.with_name("-".join([folder.name, *marks])) for folder in (self.evaluate, self.export)
        )

    def checkpoint(self, stage: str = "pretrain", average: bool = False) -> Path:
        """The checkpoint that a training stage ended with, or the running mean of the weights in it.

        Raises UserError if the stage has not ended, if the checkpoint is damaged, or if no mean was kept.
        """
        from codelm.checkpoints import verify

        folder = self.path / stage
        name: str | None = Manifest.read(folder).counts.get("checkpoint")
        if not name or not (folder / name).is_dir():
            raise UserError(f"{folder} holds no finished training", f"run `codelm train {stage}` first")
        verify(folder / name)
        if not (folder / name / "model.safetensors").is_file():
            raise UserError(f"{folder} holds an adapter without its base", f"run `codelm train {stage}` again, with --merge")
        if average and not (folder / name / AVERAGE).is_dir():
            raise UserError(f"{folder} keeps no running mean of the weights", "train with --set pretrain.ema=0.999")
        return folder / name / AVERAGE if average else folder / name

    def bundle(self, stage: str = "pretrain") -> Path:
        """The GGUF to serve: Q8_0, half the size of f16 and closest to it."""
        return self.export / f"{self.preset(stage).name}-q8_0.gguf"


def read_back(path: Path, run: Path) -> Path:
    """The checkpoint in RUN/models of a GGUF, or of the default model if the path is `default`; any other path as it is.

    Raises UserError if the file cannot be read back.
    """
    from codelm.default_model.locate import named

    path = named(path)
    if path.suffix != ".gguf":
        return path
    from codelm.export.restore import restore

    return restore(run / "models", path)


@contextlib.contextmanager
def training(run: Path) -> Iterator[Display]:
    """What every training has around it: the run's lock, which one of several processes holds, progress, and Ctrl-C."""
    with resumable(), lock(run, create=False) if leads() else contextlib.nullcontext(), Display() as display:
        yield display


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C ends the program with the word that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if leads():
            print("interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
