"""What the model reads: fill-in-the-middle, packing, mixture."""

from typing import Literal, Self

from pydantic import Field, model_validator

from codelm.config.settings import Settings, Share


class FimConfig(Settings):
    """How much of the training text is turned into fill-in-the-middle examples, and where it is cut."""

    rate: Share = Field(0.5, description="of the pieces of documents")
    spm_rate: Share = Field(0.5, description="of the examples in SPM order, the rest is PSM")
    character: float = Field(0.4, ge=0, description="weight of spans between two random characters")
    ast: float = Field(0, ge=0, description="weight of blocks, statements, expressions and arguments, where there is a grammar")
    line: float = Field(0.4, ge=0, description="weight of spans from a place in a line to the end of that line")
    block: float = Field(0.2, ge=0, description="weight of runs of whole lines at one indentation level")
    empty: float = Field(0, ge=0, description="weight of middles without text, and of those with nothing behind them")
    indent_in_middle: Share = Field(0.5, description="of the spans that begin a line, those that hold its indentation")

    @model_validator(mode="after")
    def has_a_span(self) -> Self:
        if not self.character + self.ast + self.line + self.block + self.empty:
            raise ValueError("character, ast, line, block and empty are all 0: no span is left for fill-in-the-middle")
        return self


class Factor(Settings):
    """A factor on how often documents are read: of those that fit everything that is given."""

    factor: float = Field(ge=0, description="0: never")
    language: str | None = Field(None, description="as the corpus names it")
    license: str | None = Field(None, description="SPDX expression, * for anything")
    files: str | None = Field(None, description="repo/path, * for anything; it takes along what stands below")

    @model_validator(mode="after")
    def says_of_which(self) -> Self:
        if self.language is None and self.license is None and self.files is None:
            raise ValueError("give language, license or files: a factor of everything changes nothing")
        return self


class MixtureConfig(Settings):
    """How often documents are read."""

    by: Literal["size", "language", "source"] = Field("size", description="size: each alike; else mixed by temperature")
    alpha: float | None = Field(
        None, ge=0, le=1, description="p ∝ bytes^alpha of languages or sources; None: the corpus's balance.alpha"
    )
    factors: tuple[Factor, ...] = Field((), description="on top of that; where several fit, they are multiplied")


class AnnealConfig(Settings):
    """What is read instead while the learning rate decays."""

    mixture: MixtureConfig = MixtureConfig()
    fim_rate: Share | None = Field(None, description="None: as before")
    repo_share: Share | None = Field(None, description="None: as before")


class DataConfig(Settings):
    """How documents become samples."""

    packing: Literal["stream", "best_fit"] = Field(
        "stream", description="stream: end to end, cut in windows; best_fit: no cut but in what is longer than a window"
    )
    document_mask: bool = Field(False, description="whether a token sees its own document only; else all that precedes it")
    repo_share: Share = Field(0, description="of the samples that hold files of one repository after the other, with names")
    repo_ordered_share: Share = Field(0.7, description="of the repositories, laid out dependencies first; others at random")
    mixture: MixtureConfig = MixtureConfig()
    anneal: AnnealConfig | None = Field(None, description="for the steps in which the learning rate decays")

    @property
    def packs_repositories(self) -> bool:
        """Whether some samples hold files of one repository."""
        return self.repo_share > 0 or bool(self.anneal and self.anneal.repo_share)
