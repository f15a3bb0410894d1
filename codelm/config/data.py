"""What the model reads: fill-in-the-middle, packing, mixture."""

from typing import Self

from pydantic import Field, model_validator

from codelm.config.settings import Settings, Share


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


class DataConfig(Settings):
    """How documents become samples."""

    document_mask: bool = Field(False, description="whether a token sees its own document only; else all that precedes it")
