"""Stage folders: each is whole or absent, says in its manifest what made it, and is not made twice.

A stage is written to a temporary sibling and renamed when whole (training apart, which resumes). Its manifest holds the
configuration, the fingerprints of the stages it was made from and the SHA-256 of each of its files. A stage whose inputs
and configuration are unchanged is recognised by that and not run again.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codelm import __version__
from codelm.errors import UserError
from codelm.run_folder import AVERAGE

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
COMMANDS = {
    "corpus": "codelm corpus build …",
    "tokenizer": "codelm tokenizer train",
    "tokens": "codelm tokenizer train",
    "pretrain": "codelm train pretrain",
    "distill": "codelm train distill",
    "lora": "codelm train lora",
    "evaluate": "codelm evaluate",
    "export": "codelm export",
}
"""Stage → what makes it."""


class Manifest(BaseModel):
    """What made a stage folder, and what is in it."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    key: str = Field(description="SHA-256 of stage, configuration and input fingerprints: equal keys give equal folders")
    config: dict[str, Any]
    inputs: dict[str, str] = Field(description="name → fingerprint of each input")
    seed: int | None = None
    counts: dict[str, Any] = Field(default_factory=dict, description="what the stage has to say of its result")
    outputs: dict[str, str] = Field(description="path in the folder → SHA-256")
    codelm_version: str = __version__
    git_commit: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    created: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, the identity that later stages build on; times and versions do not enter."""
        return self.fingerprint_of("")

    def fingerprint_of(self, folder: str) -> str:
        """The fingerprint of what lies below one folder of the stage, for a later stage that reads nothing else."""
        return digest({path: sha256 for path, sha256 in self.outputs.items() if path.startswith(folder)})

    def lacks(self, folder: Path) -> list[str]:
        """Its files that are not there any more."""
        return [path for path in self.outputs if not (folder / path).is_file()]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a stage folder. Raises UserError if it is missing or broken."""
        path = folder / MANIFEST
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            name, *about = folder.name.split("-")  # evaluate-lora-average: of the stage lora, the mean of its weights
            known = COMMANDS.get(name)
            options = {AVERAGE: " --average"} | {stage: f" --stage {stage}" for stage in COMMANDS}
            option = "".join(options.get(one, "") for one in about)
            command = f"{known} --run {folder.parent}{option}" if known else "codelm --help"
            raise UserError(f"{folder} holds no finished stage", f"make it with `{command}`") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})", "look at the rights to it") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a readable manifest", f"delete {folder} and run its stage again") from error


class Stage:
    """One stage of a run: `done()` tells whether it stands as configured, `build()` makes it."""

    def __init__(
        self,
        folder: Path,
        config: BaseModel | Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        seed: int | None = None,
        libraries: tuple[str, ...] = (),
    ) -> None:
        """folder: where the stage belongs. inputs: name → fingerprint. libraries: distributions whose versions to record."""
        self.folder = folder
        self.name = folder.name
        self.config = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
        self.inputs = dict(inputs or {})
        self.seed = seed
        self.libraries = libraries
        self.counts: dict[str, Any] = {}
        self.key = digest({"stage": self.name, "config": self.config, "inputs": self.inputs, "seed": seed})

    def done(self) -> Manifest | None:
        """The manifest, if the folder was made by this very stage and its files are all there; else None."""
        try:
            manifest = Manifest.read(self.folder)
        except UserError:
            return None
        return manifest if manifest.key == self.key and not manifest.lacks(self.folder) else None

    @contextlib.contextmanager
    def build(self) -> Iterator[Path]:
        """Yields an empty temporary folder; on a clean exit it gets its manifest and replaces the stage folder.

        After an exception nothing is left of it and what stood before still stands. Set `self.counts` inside.
        Raises UserError if the disk is full.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.folder.with_name(f".{self.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        start = time.monotonic()
        try:
            with disk_full_is_a_user_error(self.folder):
                yield temporary
                self.finish(temporary, seconds=time.monotonic() - start)
                replace_folder(temporary, self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def finish(self, folder: Path, seconds: float) -> Manifest:
        """Writes the manifest of everything in `folder`: from then on it is whole."""
        manifest = Manifest(
            stage=self.name,
            key=self.key,
            config=self.config,
            inputs=self.inputs,
            seed=self.seed,
            counts=self.counts,
            outputs={
                path.relative_to(folder).as_posix(): file_sha256(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != MANIFEST
            },
            git_commit=git_commit(),
            libraries={"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in self.libraries},
            seconds=round(seconds, 3),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either whole or not there."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def replace_folder(new: Path, old: Path) -> None:
    """Puts a whole folder in the place of another one, which goes only then."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def disk_full_is_a_user_error(path: Path) -> Iterator[None]:
    """Turns "no space", "quota" and "file too large" while writing below `path` into a UserError."""
    try:
        yield
    except OSError as error:
        # numpy's tofile tells no number, only "1024 requested and 688 written"
        number = errno.ENOSPC if error.errno is None and str(error).endswith("written") else error.errno
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"{path}: {os.strerror(number).lower()} while writing",
                "free some space or give another folder with --run, then run the same command again",
            ) from error
        raise


@contextlib.contextmanager
def lock(run: Path, create: bool = True) -> Iterator[None]:
    """Holds a run folder for one process; the system frees it when we die.

    Raises UserError if another process has it, if it cannot be made, or if it is not there and `create` is off.
    """
    if not create and not run.is_dir():
        raise UserError(f"{run}: no such run folder", "give the folder that an earlier stage made, with --run")
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"{run} cannot be written to ({error.strerror})", "give another folder with --run") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{run} is in use by process {file.read().strip() or '(unknown)'}",
                "wait for it, stop it, or give another folder with --run",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, if it is one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
