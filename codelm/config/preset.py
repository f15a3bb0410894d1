"""A preset: the model, its tokenizer and its training, as one YAML file."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from codelm.config.load import checked, load_yaml
from codelm.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Settings refuse keys they do not know and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Settings):
    """The shape of a decoder-only transformer: RMSNorm, SwiGLU, RoPE, grouped-query attention, tied embeddings."""

    architecture: Literal["llama", "qwen3"] = Field(description="qwen3 is llama with RMS-normed queries and keys")
    layers: int = Field(gt=0)
    width: int = Field(gt=0, description="of the residual stream; a multiple of 256, so that K-quants apply")
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    ffn: int = Field(gt=0, description="inner width of the SwiGLU; a multiple of 256 as well")
    vocab_size: int = Field(gt=0)
    context_length: int = Field(gt=0, description="tokens seen at once, in training and in serving")
    rope_theta: float = Field(10_000.0, gt=0)
    norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def is_a_legal_shape(self) -> Self:
        for name in ("width", "ffn"):
            if getattr(self, name) % 256:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of 256, the block of the K-quants")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot be shared out among {self.kv_heads} kv_heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, RoPE turns pairs")
        return self


class TokenizerConfig(Settings):
    """Byte-level BPE."""

    vocab_size: int = Field(gt=263, description="entries, with the 256 bytes and 7 special tokens")
    max_train_bytes: int = Field(64_000_000, gt=0, description="of the training split that the merges are counted on")


class FimConfig(Settings):
    """How much of the training text is turned into fill-in-the-middle examples, and where it is cut."""

    rate: Share = Field(0.5, description="of the pieces of documents")
    spm_rate: Share = Field(0.5, description="of the examples in SPM order, the rest is PSM")
    character: float = Field(0.4, ge=0, description="weight of spans between two random characters")
    line: float = Field(0.4, ge=0, description="weight of spans from a place in a line to the end of that line")
    block: float = Field(0.2, ge=0, description="weight of runs of whole lines at one indentation level")

    @model_validator(mode="after")
    def has_a_span(self) -> Self:
        if self.rate and not self.character + self.line + self.block:
            raise ValueError("character, line and block are all 0: no span is left for fill-in-the-middle")
        return self


class PretrainConfig(Settings):
    """One pretraining run: data order, optimiser, schedule and how often it is looked at."""

    seed: int = Field(0, ge=0)
    tokens: int | None = Field(None, gt=0, description="token budget; without one, give minutes")
    minutes: float | None = Field(None, gt=0, description="turned into a token budget by a short measurement")
    micro_batch_size: int = Field(gt=0, description="sequences a device sees at once")
    gradient_accumulation: int = Field(1, gt=0, description="micro-batches a device adds up to one step")
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0, description="on matrices only, not on norms")
    clip: float = Field(1.0, gt=0, description="gradient norm")
    warmup_share: Share = Field(0.02, description="of the steps, linear from 0")
    final_lr_share: Share = Field(0.1, description="of the learning rate, where the cosine ends")
    precision: Literal["bf16", "no"] = Field("bf16", description="autocast; the weights stay float32")
    compile: bool = Field(True, description="torch.compile; without a C++ compiler training goes on uncompiled")
    workers: int = Field(0, ge=0, description="data worker processes, for GPUs; the samples do not depend on them")
    log_every: int = Field(10, gt=0, description="steps")
    checkpoint_seconds: float = Field(60, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    validations: int = Field(5, ge=0, description="how often held-out bits per byte are measured during the run")
    validation_tokens: int = Field(8_192, gt=0, description="of the validation split, each time")
    fim: FimConfig = FimConfig()

    @model_validator(mode="after")
    def has_one_budget(self) -> Self:
        if self.tokens is not None and self.minutes is not None:
            raise ValueError("give tokens or minutes, not both")
        return self


class Preset(Settings):
    """What `--preset` names."""

    name: str
    description: str
    model: ModelConfig
    tokenizer: TokenizerConfig
    pretrain: PretrainConfig

    def with_training(self, **changes: Any) -> "Preset":
        """This preset with other training settings; None changes nothing, tokens and minutes replace each other.

        Raises UserError if the result is not valid.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        budget = {"tokens": None, "minutes": None} if given.keys() & {"tokens", "minutes"} else {}
        pretrain = checked(self.pretrain.model_dump() | budget | given, PretrainConfig)
        return self.model_copy(update={"pretrain": pretrain})

    @model_validator(mode="after")
    def vocabularies_agree(self) -> Self:
        if self.model.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(f"model.vocab_size {self.model.vocab_size} ≠ tokenizer.vocab_size {self.tokenizer.vocab_size}")
        return self


def names() -> list[str]:
    """The presets that come with codelm."""
    folder = resources.files("codelm.config") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """A preset by its name, or from a YAML file by its path. Raises UserError if there is none or it is malformed."""
    if name.endswith((".yaml", ".yml")):
        return load_yaml(Path(name), Preset)
    if name not in names():
        raise UserError(f"no preset {name!r}", f"use one of {', '.join(names())}, or the path of a .yaml file")
    with resources.as_file(resources.files("codelm.config") / "presets" / f"{name}.yaml") as path:
        return load_yaml(path, Preset)
