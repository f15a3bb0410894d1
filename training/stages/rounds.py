"""Rounds of a stage: `<run>/stages/<id>-<name>/round-<k>/`, one beside the other, and what stands in each.

`round.json` says what it is a round of, `plan.json` what was planned, `pretrain/` is the training, `evaluate/` its scores, and
`review.json` what came of it, the last to be written: a round that has one is finished.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from codelm.config.preset import Preset, load_preset, merged
from codelm.config.stages import Shape, Stage, StagesConfig
from codelm.corpus.report import counted
from codelm.errors import UserError
from codelm.stage import Manifest, write_atomically
from training.plan.checks import check_continued
from training.plan.plan import Plan, StagePlan, as_json
from training.stage import OPERATIONAL, differences
from training.stages.review import Review, failed_gates

STAGES = "stages"
ROUND, PLAN, PRESET, REVIEW = "round.json", "plan.json", "preset.yaml", "review.json"


Model = TypeVar("Model", bound=BaseModel)


class Identity(BaseModel):
    """What a round is a round of: it goes on with these settings and no others."""

    settings: dict[str, Any]
    init: str | None
    """Where its weights come from."""
    data: str | None = None
    """The fingerprint of the tokens that it reads."""
    options: list[str] = []
    """Of the command line that began it, for the commands of its review: --config, --shape and each --set."""


class Round:
    """One training of a stage, with what belongs to it."""

    def __init__(self, stage: Stage, number: int, run: Path) -> None:
        self.stage = stage
        self.number = number
        self.folder = run / STAGES / stage.folder / f"round-{number}"
        self.pretrain, self.evaluate = self.folder / "pretrain", self.folder / "evaluate"

    @property
    def begun(self) -> bool:
        """Whether it has been told what it is."""
        return (self.folder / ROUND).exists()

    @property
    def finished(self) -> bool:
        """Whether it has been reviewed."""
        return (self.folder / REVIEW).exists()

    @property
    def preset(self) -> Preset:
        """What it trains."""
        return load_preset(str(self.folder / PRESET))

    @property
    def plan(self) -> StagePlan:
        """What was planned."""
        return read(self.folder / PLAN, Plan).stages[0]

    @property
    def review(self) -> Review:
        """What came of it."""
        return read(self.folder / REVIEW, Review)

    @property
    def identity(self) -> Identity:
        """What it was begun as."""
        return read(self.folder / ROUND, Identity)

    @property
    def init(self) -> Path | None:
        """Where its weights come from."""
        return Path(self.identity.init) if self.identity.init else None

    def check(self, preset: Preset, init: Path | None) -> None:
        """Raises UserError if it was begun with other settings than these."""
        now, before = identity_of(preset, init), self.identity
        differing = differences(before.settings, now.settings)
        if init is not None and now.init != before.init:
            differing.append(f"--resume-from {before.init} → {now.init}")
        if differing:
            raise UserError(
                f"stage {self.stage.id}: {self.folder.name} was begun with other settings ({', '.join(differing[:3])})",
                f"begin another one with --round {self.number + 1}, or give the settings of this one",
            )

    def begin(
        self,
        preset: Preset,
        init: Path | None,
        plan: Plan,
        floor: float | None,
        data: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Records what it is. floor: bits per byte that it has to reach at half of its steps. data, options: of `Identity`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / PLAN, as_json(plan) + "\n")
        self.write_preset(with_floor(preset, floor))
        identity = identity_of(preset, init).model_copy(update={"data": data, "options": list(options)})
        write_atomically(self.folder / ROUND, identity.model_dump_json(indent=2) + "\n")

    def go_on(self, preset: Preset) -> None:
        """Takes over the settings that may change on the way."""
        engine = preset.pretrain.engine
        watch = {name: getattr(preset.pretrain.watch, name) for name in OPERATIONAL["watch"]}
        self.write_preset(self.preset.with_training(engine=engine.model_dump(), watch=watch))

    def write_preset(self, preset: Preset) -> None:
        """Puts the preset where the training reads it."""
        text = yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False)
        write_atomically(self.folder / PRESET, text)

    @property
    def checkpoint(self) -> Path:
        """What it hands on: its last. Raises UserError if it is gone.

        The best by the light evaluation is one from before the decay now and then, for 64 places tell little.
        """
        path: Path = self.pretrain / Manifest.read(self.pretrain).counts["checkpoint"]
        if not path.is_dir():
            raise UserError(f"{path} is gone", f"train another round of stage {self.stage.id}")
        return path


def identity_of(preset: Preset, init: Path | None) -> Identity:
    """What must stay the same for a round to go on."""
    settings = {
        "model": preset.model.model_dump(mode="json"),
        "pretrain": preset.pretrain.model_dump(mode="json", exclude=OPERATIONAL),
    }
    return Identity(settings=settings, init=str(init.absolute()) if init else None)


def with_floor(preset: Preset, floor: float | None) -> Preset:
    """The preset, which ends early if it is worse than the stage before; what it says of that itself counts more.

    A training that is not evaluated on its way has no floor.
    """
    watch = preset.pretrain.watch
    early = watch.early_stop
    if floor is None or early.floor is not None or not (watch.evaluations or watch.checkpoint_steps):
        return preset
    rule = {"floor": {"score": "bits_per_byte", "value": floor}}
    return preset.with_training(watch={"early_stop": merged(early.model_dump(), rule)})


def rounds_of(stage: Stage, run: Path) -> list[Round]:
    """The rounds of a stage that have been begun, in order."""
    folder = run / STAGES / stage.folder
    numbers = [
        int(path.name.removeprefix("round-")) for path in folder.glob("round-*") if re.fullmatch(r"round-\d+", path.name)
    ]
    return [one for number in sorted(numbers) if (one := Round(stage, number, run)).begun]


def choose(stage: Stage, run: Path, number: int | None) -> Round:
    """The round that is meant: the one named, or the newest, or the first. Raises UserError if those before it lack.

    One that was begun and never finished is no hindrance: there are settings with which no training comes to its end.
    """
    there = rounds_of(stage, run)
    if number is None:
        return there[-1] if there else Round(stage, 1, run)
    following = there[-1].number + 1 if there else 1
    if number > following:
        raise UserError(
            f"--round {number}: stage {stage.id} has {counted(len(there), 'round')}", f"run --round {following} first"
        )
    return Round(stage, number, run)


def best(stage: Stage, run: Path) -> Round | None:
    """The finished round with the fewest bits per byte; None if there is none."""
    return min((one for one in rounds_of(stage, run) if one.finished), key=lambda one: one.review.bits_per_byte, default=None)


def before(config: StagesConfig, stage: Stage, run: Path) -> Round | None:
    """What a stage is held against: the best round of the stage that it comes after."""
    return best(config.stage(stage.after), run) if stage.after else None


def shut_gate(config: StagesConfig, stage: Stage, run: Path) -> list[str]:
    """What speaks against going on after a stage, by its gate as it is now and its best round; nothing if it has none."""
    found, previous = best(stage, run), before(config, stage, run)
    return failed_gates(stage.gate, found.review, previous.review.bits_per_byte if previous else None) if found else []


def check_order(config: StagesConfig, chosen: list[Stage], run: Path) -> None:
    """Raises UserError if a stage comes after one that is not to be trained before it and has no result, or a bad one."""
    ids = [stage.id for stage in chosen]
    for stage in chosen:
        if stage.after is None or stage.after in ids:
            continue
        needed = sorted({*ids, stage.after}, key=[one.id for one in config.stages].index)
        if best(config.stage(stage.after), run) is None:
            raise UserError(
                f"stage {stage.id} comes after stage {stage.after}, which has no finished round in {run}",
                f"write --stages {','.join(needed)}",
            )
        if failed := shut_gate(config, config.stage(stage.after), run):
            raise UserError(
                f"stage {stage.id} comes after stage {stage.after}, whose gate is not passed ({'; '.join(failed)})",
                f"train another round of stage {stage.after}, or open its gate: --stages {','.join(needed)} --set gate.…",
            )


def check_shapes(config: StagesConfig, chosen: list[Stage], shape: Shape, run: Path | None) -> None:
    """Raises UserError if a stage is to go on with weights that cannot be its own: of the round there is, or is to be."""
    for stage in chosen:
        if stage.continues and stage.after:
            earlier = config.stage(stage.after)
            there = before(config, stage, run) if run and earlier not in chosen else None
            check_continued(stage, earlier, (there.preset if there else earlier.resolved(shape)).model, shape)


def read(path: Path, model: type[Model]) -> Model:
    """A file that this room wrote. Raises UserError if it is damaged."""
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged", f"delete {path.parent} and run the stage again") from error
