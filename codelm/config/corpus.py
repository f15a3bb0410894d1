"""Settings of the corpus stage."""

import difflib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from codelm.corpus.languages import language_map

STDLIB = "stdlib"


class CorpusConfig(BaseModel):
    """What goes into a corpus, what is left out, and how it is split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[str] = Field(
        default=[STDLIB],
        min_length=1,
        description='folders of source code; "stdlib" is the standard library of the running Python',
    )
    languages: list[str] = Field(
        default_factory=lambda: list(language_map().names), min_length=1, description="languages to keep, by name"
    )
    max_file_bytes: int = Field(default=1_000_000, gt=0, description="larger files are dropped")
    min_lines: int = Field(default=3, ge=1, description="files with fewer non-blank lines are dropped")
    max_mean_line_chars: int = Field(
        default=150, gt=0, description="files whose non-blank lines are longer on average (minified, data) are dropped"
    )
    max_duplicate_line_share: float = Field(
        default=0.7, gt=0, le=1, description="files are dropped if more of their non-blank lines repeat an earlier one"
    )
    deny_licenses: list[str] = Field(
        default=["AGPL-*", "GPL-*", "LGPL-*"],
        description="SPDX ids (with * as wildcard) whose files are dropped; files of unknown licence are kept",
    )
    valid_share: float = Field(default=0.1, gt=0, le=0.5, description="share of the bytes held out, by whole packages")
    seed: int = Field(default=0, ge=0, description="chooses which packages are held out")

    @field_validator("sources")
    @classmethod
    def absolute(cls, sources: list[str]) -> list[str]:
        """Folders as absolute paths, each source once."""
        return list(dict.fromkeys(s if s == STDLIB else str(Path(s).expanduser().absolute()) for s in sources))

    @field_validator("languages")
    @classmethod
    def known(cls, languages: list[str]) -> list[str]:
        """Languages by their proper names, whatever the case they were given in."""
        proper = {name.lower(): name for name in language_map().names}
        for language in languages:
            if language.lower() not in proper:
                close = difflib.get_close_matches(language.lower(), proper, n=1)
                hint = f"did you mean {proper[close[0]]!r}?" if close else f"known: {', '.join(proper.values())}"
                raise ValueError(f"unknown language {language!r}; {hint}")
        return sorted({proper[language.lower()] for language in languages})
