"""The `codelm.*` keys of a GGUF file: what a server must know of a model, carried by the model itself."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codelm import __version__
from codelm.config.preset import Preset
from codelm.fim import Order

SCHEMA = 1
PREFIX = "codelm."
BASE_KEY = PREFIX + "base_sha256"
"""In the GGUF of an adapter: the `weights_sha256` of the base that it was trained upon."""
PRESET = "preset.yaml"
"""Beside the file: the settings that the model was trained with, its shape as it is served."""


class BundleMetadata(BaseModel):
    """Written by the exporter as `codelm.<field>` = text, read by the server. Keys of newer versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: int = SCHEMA
    name: str = Field(description="the model's name in answers, such as nano")
    codelm_version: str
    context_length: int = Field(gt=0, description="tokens that the model is to be served with")
    fim_order: Order = Field(description="the order to serve; the model was trained on both")
    tokenizer_sha256: str = Field(description="of tokenizer.json: a draft must have the same")
    corpus_fingerprint: str = Field(description="of the corpus that the model was trained on")
    weights_sha256: str | None = Field(None, description="of the checkpoint that was exported: an adapter must be of the same")
    trained_tokens: int = 0
    repo_context: bool = Field(False, description="trained on files of a repository one after the other, with their names")
    bits_per_byte: float | None = Field(None, description="on held-out files")
    exact_match: float | None = Field(None, description="ends of lines, greedy, on held-out files, 0 to 1")
    whole_line_match: float | None = Field(None, description="the same of whole lines")
    draft: str | None = Field(None, description="file name of the speculative draft, beside this file")
    gate: str | None = Field(None, description="when to show a completion, as JSON; fitted by `codelm calibrate`")

    @classmethod
    def of(
        cls,
        preset: Preset,
        tokenizer_sha256: str,
        corpus_fingerprint: str,
        weights_sha256: str,
        trained_tokens: int,
        scores: Mapping[str, Any],
    ) -> "BundleMetadata":
        """Of a trained model. preset: with the model as it is served. scores: as evaluation found them, or none."""
        return cls(
            name=preset.name,
            codelm_version=__version__,
            context_length=preset.model.context_length,
            fim_order=Order.SPM,
            tokenizer_sha256=tokenizer_sha256,
            corpus_fingerprint=corpus_fingerprint,
            weights_sha256=weights_sha256,
            trained_tokens=trained_tokens,
            repo_context=preset.pretrain.data.packs_repositories,
            bits_per_byte=scores.get("bits_per_byte"),
            exact_match=scores.get("exact_match"),
            whole_line_match=scores.get("whole_line_match"),
        )

    def to_gguf(self) -> dict[str, str]:
        """Key → text, without the fields that are not set."""
        return {PREFIX + name: str(value) for name, value in self.model_dump(mode="json", exclude_none=True).items()}

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, str]) -> "BundleMetadata":
        """From all of a file's metadata. Raises ValueError if the keys are missing or wrong, saying which."""
        fields = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problems = ", ".join(f"{PREFIX}{item['loc'][0]}: {item['msg']}" for item in error.errors())
            raise ValueError(f"no usable codelm metadata ({problems})") from error
