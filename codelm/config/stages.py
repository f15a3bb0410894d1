"""Stages of progressive training: which preset, on what data and hardware, and what must come out before the next begins."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from codelm.config.load import checked
from codelm.config.preset import Preset, load_named, load_preset, merged
from codelm.config.settings import Settings, Share
from codelm.errors import UserError

HERE = "here"
"""The device that is this machine."""
Shape = Literal["budget", "report"]
"""budget: the preset's shape, which meets the stage's parameter budget. report: the literal shape that was planned first."""
Id = Annotated[str, StringConstraints(pattern=r"^\d+[a-z]?$")]


class ReportShape(Settings):
    """The shape as it was first planned; with SwiGLU it holds more parameters than the stage's budget."""

    layers: int = Field(gt=0, description="decoder blocks")
    width: int = Field(gt=0, description="of the residual stream")
    heads: int = Field(gt=0, description="each with keys and values of its own")
    ffn: int = Field(gt=0, description="inner width of the SwiGLU")

    def changes(self) -> dict[str, int]:
        """As changes of a `ModelConfig`."""
        return {
            "layers": self.layers,
            "width": self.width,
            "heads": self.heads,
            "kv_heads": self.heads,
            "head_dim": self.width // self.heads,
            "ffn": self.ffn,
        }


class Hardware(Settings):
    """What a stage is trained on."""

    device: str = Field(HERE, description="a name from the table of devices, or here: this machine")
    devices: int = Field(1, gt=0, description="how many of them")
    max_hours: float | None = Field(None, gt=0, description="longer is told as a warning")
    price_per_hour: float | None = Field(None, ge=0, description="of one device; None: the table's")
    watts: float | None = Field(None, gt=0, description="of one device; None: the table's")
    mfu: float | None = Field(
        None, gt=0, le=1, description="share of the peak FLOP/s; None: what the table assumes for the size"
    )


class Data(Settings):
    """What a stage reads."""

    corpus: str = Field("stdlib", description="settings for `codelm corpus build --config`: a name or a YAML file")
    note: str = Field("", description="what the mixture should be like")
    max_epochs: float = Field(16.0, gt=0, description="more passes over the data are refused; over 4 there is a warning")


class Sft(Settings):
    """The short fine-tuning on instructions that follows pretraining."""

    samples: int = Field(0, ge=0, description="pairs of instruction and answer; 0: none")


class Evaluation(Settings):
    """How closely the result of a stage is looked at."""

    tokens: int = Field(100_000, gt=0, description="of the validation split, for bits per byte")
    places: int = Field(256, gt=0, description="cursors for whole lines, and as many for ends of lines")


class Gate(Settings):
    """What the evaluation of a stage must say, or the stages after it do not begin."""

    max_bits_per_byte: float | None = Field(None, gt=0, description="on held-out files")
    min_exact_match: Share | None = Field(None, description="of single-line completions on held-out files")
    better_than_previous: bool = Field(True, description="fewer bits per byte than the stage before")


class Stage(Settings):
    """One stage."""

    id: Id = Field(description="what --stages names: a number, with a letter for a continuation")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="of its folder, after the id")
    aim: str = Field(description="what it is for")
    after: Id | None = Field(None, description="the stage whose result it is held against; None: the first")
    continues: bool = Field(False, description="begin with the weights of the stage in `after`, which has the same shape")
    preset: str = Field(description="model and training: a name, or a YAML file beside this one")
    model: dict[str, Any] = Field({}, description="changes of the preset's model")
    tokenizer: dict[str, Any] = Field({}, description="changes of the preset's tokenizer")
    pretrain: dict[str, Any] = Field({}, description="changes of the preset's training, first of all its tokens")
    parameters: tuple[int, int] | None = Field(None, description="least and most parameters of its budget")
    report: ReportShape | None = Field(None, description="the shape for --shape report")
    hardware: Hardware = Hardware()
    data: Data = Data()
    sft: Sft = Sft()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    rounds: int = Field(2, ge=1, description="trainings of this stage, each after a look at the one before, at least")
    review: list[str] = Field([], description="what to look at before the next round")
    stop: list[str] = Field([], description="when to end the rounds, or the whole way")

    @property
    def folder(self) -> str:
        """Its folder below `<run>/stages`."""
        return f"{self.id}-{self.name}"

    def resolved(self, shape: Shape = "budget") -> Preset:
        """The preset with this stage's changes. Raises UserError if there is none, or if they do not fit it."""
        changes: dict[str, Any] = {"model": self.model, "tokenizer": self.tokenizer, "pretrain": self.pretrain}
        preset = load_preset(self.preset)
        if shape == "report":
            if self.report is None:
                raise UserError(f"stage {self.id}: it has no other shape than its preset's", "leave out --shape report")
            changes = merged({"name": f"{preset.name}-report"} | changes, {"model": self.report.changes()})
        return preset.with_changes(changes, where=f"stage {self.id}")


class StagesConfig(Settings):
    """Stages in the order of their training."""

    description: str = Field(description="one line")
    stages: list[Stage] = Field(min_length=1, description="from the smallest on")

    @model_validator(mode="after")
    def order_holds(self) -> Self:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.id in seen:
                raise ValueError(f"stage {stage.id} is there twice")
            if stage.after is not None and stage.after not in seen:
                raise ValueError(f"stage {stage.id} comes after {stage.after}, which is not before it in the list")
            if stage.continues and stage.after is None:
                raise ValueError(f"stage {stage.id} continues, but names no stage in `after`")
            seen.add(stage.id)
        return self

    def chosen(self, ids: str | None) -> list[Stage]:
        """The stages that `--stages 0,1` names; None: all. Raises UserError for one that there is not, or out of order."""
        known = [stage.id for stage in self.stages]
        asked = known if ids is None else [part.strip() for part in ids.split(",")]
        for one in asked:
            if one not in known:
                raise UserError(f"--stages {ids}: there is no stage {one!r}", f"choose from {','.join(known)}")
        right = sorted(set(asked), key=known.index)
        if asked != right:
            raise UserError(
                f"--stages {ids}: stages build on one another and run in order, each once", f"write --stages {','.join(right)}"
            )
        return [stage for stage in self.stages if stage.id in asked]

    def stage(self, id_: str) -> Stage:
        """A stage by its id, one that there is."""
        return next(stage for stage in self.stages if stage.id == id_)

    def with_changes(self, changes: Mapping[str, Any], ids: str | None = None) -> "StagesConfig":
        """The same changes in each of the stages that `ids` names; tokens and minutes replace each other.

        Raises UserError if the result is not valid.
        """
        if not changes:
            return self
        of = {stage.id for stage in self.chosen(ids)}
        has_budget = changes.get("pretrain", {}).keys() & {"tokens", "minutes"}

        def changed(stage: Stage) -> dict[str, Any]:
            values = stage.model_dump()
            if has_budget:
                values["pretrain"] = {
                    name: value for name, value in stage.pretrain.items() if name not in ("tokens", "minutes")
                }
            return merged(values, changes)

        stages = [changed(stage) if stage.id in of else stage.model_dump() for stage in self.stages]
        return checked({"description": self.description, "stages": stages}, StagesConfig, "--set")


def load_stages(name: str) -> StagesConfig:
    """Stages by their name, or from a YAML file by its path. Raises UserError if there are none or they are malformed."""
    config = load_named("stages", name, StagesConfig)
    if not name.endswith((".yaml", ".yml")):
        return config
    beside = Path(name).parent

    def found(preset: str) -> str:
        return str(beside / preset) if preset.endswith((".yaml", ".yml")) else preset

    stages = [stage.model_copy(update={"preset": found(stage.preset)}) for stage in config.stages]
    return config.model_copy(update={"stages": stages})


def stage_of(preset: str, device: str = HERE) -> StagesConfig:
    """A preset as a plan of one stage, whose name is one for a folder."""
    name = re.sub(r"[^a-z0-9._-]+", "-", load_preset(preset).name.lower()).strip("._-") or "preset"
    stage = Stage(id="0", name=name, aim="one training", preset=preset, hardware=Hardware(device=device))
    return StagesConfig(description=f"the preset {preset}", stages=[stage])
