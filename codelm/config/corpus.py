"""Settings of the corpus stage."""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from codelm.config.settings import Settings, Share
from codelm.corpus.languages import language_map

STDLIB = "stdlib"
KINDS = ("git", "python", "npm", "jsonl", "parquet", "hf")
"""Sources that are no folder are written KIND:WHAT."""

COPYLEFT = ("weak-copyleft", "copyleft")
"""Categories of licences that ask for the same licence in return."""


class LicensePolicy(Settings):
    """Which licences may stay. Names are SPDX ids, with * as wildcard, or the categories of data/license_categories.yaml."""

    allow: list[str] = Field(default=["permissive", "public-domain"], description="ids and categories to keep")
    deny: list[str] = Field(default=[], description="ids and categories to drop, though they are allowed")
    unknown: Literal["drop", "keep"] = Field(default="drop", description="what to do with files whose licence nobody states")

    @field_validator("allow", "deny")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        """Refuses a name that is no licence and no category: a misspelt one would forbid nothing."""
        if names != cls.model_fields["allow"].default:
            from codelm.corpus.licenses.expressions import stranger

            for name in names:
                if hint := stranger(name):
                    raise ValueError(f"unknown licence {name!r}; {hint}")
        return names


class Filters(Settings):
    """Which files are source code that somebody wrote and a model should learn."""

    drop: list[Literal["tests", "vendored", "generated", "build", "hidden"]] = Field(
        default=["tests", "vendored", "generated", "build", "hidden"], description="kinds of paths to leave out"
    )
    max_file_bytes: int = Field(default=1_000_000, gt=0, description="larger files are dropped")
    min_lines: int = Field(default=3, ge=1, description="files with fewer non-blank lines are dropped")
    max_line_chars: int = Field(default=1_000, gt=0, description="files with a longer line are dropped")
    max_mean_line_chars: int = Field(
        default=150, gt=0, description="files whose non-blank lines are longer on average (minified, data) are dropped"
    )
    min_alphanumeric_share: Share = Field(default=0.25, description="of the characters that are not white space")
    max_encoded_share: Share = Field(default=0.5, description="of the characters in long runs of base64, hex or escapes")
    max_duplicate_line_share: Share = Field(
        default=0.7, description="files are dropped if more of their non-blank lines repeat an earlier one"
    )
    parse: bool = Field(default=True, description="drop what its language's parser does not take, where one is installed")
    max_error_share: Share = Field(default=0.1, description="of a file's bytes that a tree-sitter grammar may not understand")


class Redaction(Settings):
    """What is replaced inside a file. Licence headers are never touched."""

    secrets: bool = Field(default=True, description="keys, tokens and passwords, by the rules of data/secrets.yaml")
    emails: bool = Field(default=True, description="addresses of people")
    ip_addresses: bool = Field(default=True, description="public ones")
    names: bool = Field(default=True, description="personal names in author lines")


class Dedup(Settings):
    """Copies and near copies."""

    near: bool = Field(default=True, description="also drop files that are almost another one")
    threshold: float = Field(default=0.7, gt=0, le=1, description="Jaccard similarity of the sets of shingles")
    shingle: int = Field(default=5, ge=1, description="lexemes in a shingle")
    bands: int = Field(default=42, ge=1, description="of the MinHash signature")
    rows: int = Field(default=6, ge=1, description="hashes in a band")


class Decontamination(Settings):
    """Which benchmarks the corpus must not hold solutions of."""

    benchmarks: list[Literal["humaneval", "mbpp"]] = Field(
        default=["humaneval", "mbpp"], description="public sets whose hashes come with the product; their infilling forms too"
    )
    files: list[str] = Field(default=[], description="sets of your own: JSONL files, all texts of a row are looked for")

    @field_validator("files")
    @classmethod
    def absolute(cls, files: list[str]) -> list[str]:
        """Files as absolute paths."""
        return [str(Path(file).expanduser().absolute()) for file in files]


class Balance(Settings):
    """How languages and sources are mixed."""

    max_language_share: float = Field(
        default=0.7, gt=0, le=1, description="of the bytes; the largest language is cut down to it"
    )
    max_dropped: Share = Field(
        default=0.5, description="where the cap would drop more than this of a language, it is left whole, with a warning"
    )
    alpha: float = Field(default=0.7, ge=0, le=1, description="exponent of the mixture weights: 1 as is, 0 all languages alike")


class Slurm(Settings):
    """Where and how jobs run, for `execution.kind: slurm`."""

    partition: str = Field(default="cpu", description="of the cluster")
    time: str = Field(default="04:00:00", description="at the most, of a job")
    cpus_per_task: int = Field(default=1, ge=1, description="cores of a task")
    mem_per_cpu_gb: int = Field(default=4, ge=1, description="gigabytes for each core")
    qos: str = Field(default="normal", description="quality of service, as the cluster names it")
    sbatch_args: dict[str, str] = Field(default={}, description="more options of sbatch")


class Execution(Settings):
    """Who does the work. Nothing in here changes the result."""

    kind: Literal["local", "slurm", "ray"] = Field(default="local", description="processes here, jobs of Slurm, tasks of Ray")
    workers: int = Field(default=0, ge=0, description="tasks at once; 0: as many as this machine has cores")
    piece_mb: int = Field(default=8, ge=1, description="megabytes of source in a task, the smallest part that is done again")
    slurm: Slurm = Slurm()
    ray_address: str = Field(default="auto", description='of the cluster; "local" starts one here')


class CorpusConfig(Settings):
    """What goes into a corpus, what is left out, and how it is split."""

    sources: list[str] = Field(
        default=[STDLIB],
        min_length=1,
        description=(
            'folders of source code; "stdlib": the standard library of the running Python; git:DIR[@COMMIT]: a repository '
            "without checkout; python:[DIR]: installed Python packages; npm:DIR: the packages in a node_modules; "
            "jsonl:FILE, parquet:FILE|DIR: tables with a column of code; hf:NAME[@REVISION]: a set of the Hugging Face hub"
        ),
    )
    languages: list[str] = Field(
        default_factory=lambda: list(language_map().names), min_length=1, description="languages to keep, by name"
    )
    licenses: LicensePolicy = LicensePolicy()
    filters: Filters = Filters()
    redact: Redaction = Redaction()
    dedup: Dedup = Dedup()
    decontaminate: Decontamination = Decontamination()
    balance: Balance = Balance()
    valid_share: float = Field(default=0.1, gt=0, le=0.5, description="share of the bytes held out, by whole packages")
    attribution: bool = Field(default=True, description="build the index that tells where generated code stands in the corpus")
    opt_outs: list[str] = Field(default=[], description="patterns of repo/path, with * as wildcard, that must not be in it")
    seed: int = Field(default=0, ge=0, description="chooses which packages are held out and which files are down-sampled")
    execution: Execution = Execution()

    @field_validator("sources")
    @classmethod
    def absolute(cls, sources: list[str]) -> list[str]:
        """Folders as absolute paths, each source once."""

        def one(source: str) -> str:
            if "://" in source:
                raise ValueError(f"{source} is not on this machine; `git clone --bare` it, then give git:DIR")
            kind, colon, rest = source.partition(":")
            if source == STDLIB or kind == "hf":
                return source
            if colon and kind in KINDS:
                path, at, revision = rest.rpartition("@") if kind == "git" and "@" in rest else (rest, "", "")
                return f"{kind}:{Path(path).expanduser().absolute() if path else ''}{at}{revision}"
            if re.match(r"[a-z]{2,}:", source) and not Path(source).exists():
                raise ValueError(f"unknown kind of source {kind!r}; known: a folder, {STDLIB}, {':, '.join(KINDS)}:")
            return str(Path(source).expanduser().absolute())

        return list(dict.fromkeys(map(one, sources)))

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

    def identity(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        return self.model_dump(mode="json", exclude={"execution"})
