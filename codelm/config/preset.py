"""A preset: the model, its tokenizer and its training, as one YAML file."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, model_validator

from codelm.config.distill import DistillConfig
from codelm.config.load import checked, load_yaml
from codelm.config.lora import LoraConfig
from codelm.config.model import ModelConfig
from codelm.config.pretrain import PretrainConfig
from codelm.config.settings import Settings
from codelm.errors import UserError

Loaded = TypeVar("Loaded", bound=BaseModel)


class TokenizerConfig(Settings):
    """Byte-level BPE."""

    vocab_size: int = Field(gt=263, description="entries, with the 256 bytes and 7 special tokens")
    split: Literal["word", "line"] = Field(
        "word", description="what a token stays inside: a word, as in qwen2, or a line (fewer tokens, slower to train)"
    )
    max_train_bytes: int = Field(64_000_000, gt=0, description="of the training split that the merges are counted on")


class Preset(Settings):
    """What `--preset` names."""

    name: str = Field(description="of the files that are exported")
    description: str = Field(description="one line, for the model card")
    model: ModelConfig
    tokenizer: TokenizerConfig
    pretrain: PretrainConfig
    distill: DistillConfig = DistillConfig()
    lora: LoraConfig = LoraConfig()

    def with_changes(self, changes: Mapping[str, Any], where: str = "settings") -> "Preset":
        """This preset with other settings, group by group as in its YAML; tokens and minutes replace each other.

        where: what an error names as their place.

        Raises UserError if the result is not valid.
        """
        values, pretrain = self.model_dump(), changes.get("pretrain")
        if isinstance(pretrain, Mapping) and pretrain.keys() & {"tokens", "minutes"}:
            values["pretrain"] |= {"tokens": None, "minutes": None}
        return checked(merged(values, changes), Preset, where)

    def with_training(self, **changes: Any) -> "Preset":
        """This preset with other training settings; None changes nothing.

        A mapping changes the named settings of its group only: `with_training(engine={"compile": False})`.
        Raises UserError if the result is not valid.
        """
        return self.with_changes({"pretrain": {name: value for name, value in changes.items() if value is not None}})

    @model_validator(mode="after")
    def vocabularies_agree(self) -> Self:
        if self.model.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(f"model.vocab_size {self.model.vocab_size} ≠ tokenizer.vocab_size {self.tokenizer.vocab_size}")
        return self


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes`, group by group."""
    result = dict(values)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def names(kind: str = "") -> list[str]:
    """The settings of a kind that come with codelm: presets, or those in the folders `stages` and `corpora`."""
    folder = resources.files("codelm.config") / "presets" / kind
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_named(kind: str, name: str, model: type[Loaded]) -> Loaded:
    """Settings by their name, or from a YAML file by its path.

    kind: "" for presets, "stages" or "corpora". Raises UserError if there are none or they are malformed.
    """
    if name.endswith((".yaml", ".yml")):
        return load_yaml(Path(name), model)
    if name not in names(kind):
        raise UserError(f"no {kind or 'preset'} {name!r}", f"use one of {', '.join(names(kind))}, or the path of a .yaml file")
    with resources.as_file(resources.files("codelm.config") / "presets" / kind / f"{name}.yaml") as path:
        return load_yaml(path, model)


def load_preset(name: str) -> Preset:
    """A preset by its name, or from a YAML file by its path. Raises UserError if there is none or it is malformed."""
    return load_named("", name, Preset)
