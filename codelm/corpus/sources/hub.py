"""Sets of code on the Hugging Face hub, at one commit, as files of rows: loading scripts are never run."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from codelm.corpus.sources.tables import Table, TableSource, check, is_table
from codelm.errors import UserError
from codelm.progress import Progress, silent
from codelm.stage import digest, write_atomically

COMMIT = re.compile(r"[0-9a-f]{40}")
CONVERTED = "refs/convert/parquet"
"""Where the hub puts its Parquet copy of a set: https://huggingface.co/docs/dataset-viewer/parquet."""
HUB = "https://huggingface.co/datasets/"


@dataclass(frozen=True)
class HubFile:
    """A file of rows of a set."""

    path: str
    size: int
    blob: str
    """hash of its content"""


@dataclass(frozen=True)
class HubSet:
    """A set at a commit."""

    name: str
    """owner/name"""
    commit: str
    folder: str
    """only what is below it; "" for all"""
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def source(self) -> str:
        """It as a source of a corpus, pinned."""
        return f"hf:{'/'.join(filter(None, (self.name, self.folder)))}@{self.commit}"


class HubSource(TableSource):
    """The rows of a set; its files are fetched when they are first needed, and kept in the hub's own cache."""

    def __init__(self, given: str) -> None:
        """given: hf:NAME[/FOLDER][@REVISION]. Raises UserError if it is not to be had."""
        self.given = given
        name, _, revision = given.removeprefix("hf:").partition("@")
        self.set = resolve(name, revision or None)

    @cached_property
    def tables(self) -> list[Table]:
        """The files. Raises UserError if they cannot be fetched, or hold no code."""
        tables = fetch(self.set)
        check(self.given, tables)
        return tables

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the set's name, commit and files."""
        return digest(asdict(self.set))


def resolve(name: str, revision: str | None = None) -> HubSet:
    """Finds a set's commit and its files of rows; a commit that was listed once needs no network.

    name: owner/name, a folder in it may follow. revision: a commit, branch or tag; without one the newest, or the hub's
    own Parquet copy of it where its files are of another kind. Raises UserError if it is missing, gated, out of reach,
    or has no files of rows.
    """
    name, folder = split(name)
    if revision and COMMIT.fullmatch(revision) and (known := recall(name, folder, revision)):
        return known
    with answers(name, revision):
        from huggingface_hub import HfApi

        api = HfApi()
        found = listing(api, name, folder, revision)
        if not found.files and revision is None:
            with contextlib.suppress(OSError):  # not every set has a copy: then the original's lack is what we tell
                found = listing(api, name, folder, CONVERTED)
    if not found.files:
        where = f"below {folder}/ " if folder else ""
        raise UserError(
            f"hf:{name}: no Parquet or JSON Lines files {where}at {found.commit}",
            f"look at its files at {HUB}{name}/tree/{found.commit} and name another folder or revision",
        )
    remember(found)
    return found


def split(name: str) -> tuple[str, str]:
    """(owner/name, folder in it)."""
    parts = name.strip("/").split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def listing(api: Any, name: str, folder: str, revision: str | None) -> HubSet:
    """The files of rows of a set at a revision."""
    from huggingface_hub import RepoFile

    commit = api.dataset_info(name, revision=revision).sha
    tree = api.list_repo_tree(name, recursive=True, revision=commit, repo_type="dataset")
    files = (
        HubFile(one.path, one.lfs.size if one.lfs else one.size, one.lfs.sha256 if one.lfs else one.blob_id)
        for one in tree
        if isinstance(one, RepoFile) and is_table(one.path) and (not folder or one.path.startswith(folder + "/"))
    )
    return HubSet(name, commit, folder, tuple(sorted(files, key=lambda file: file.path)))


def fetch(found: HubSet, progress: Progress = silent, out: Path | None = None) -> list[Table]:
    """Downloads a set's files, those that are not here yet. progress: in bytes. out: a folder other than the hub's cache.

    Raises UserError if the hub does not give them.
    """
    tables = []
    done = 0
    with answers(found.name, found.commit):
        from huggingface_hub import hf_hub_download

        for file in found.files:
            progress(done, found.size, note=file.path)
            path = hf_hub_download(
                found.name,
                file.path,
                repo_type="dataset",
                revision=found.commit,
                local_dir=out,
                tqdm_class=bar(progress, done, found.size),
            )
            done += file.size
            progress(done, found.size)
            tables.append(Table(Path(path), file.path, file.size, file.blob, found.name))
    return tables


def bar(progress: Progress, before: int, total: int) -> Any:
    """A progress bar for the hub's library that draws nothing and reports the bytes so far. before: those of earlier files."""
    from huggingface_hub import utils

    base: Any = utils.tqdm  # type: ignore[attr-defined]

    class Silent(base):
        """Counts though it is switched off."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.bytes = int(kwargs.get("initial") or 0)
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.bytes += int(n or 0)
            progress(before + self.bytes, total)
            return None

    return Silent


@contextlib.contextmanager
def answers(name: str, revision: str | None) -> Iterator[None]:
    """Turns what the hub refuses into UserErrors that say what to do."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"hf:{name}: huggingface-hub is not installed", "pip install 'codelm[hub]'") from None
    try:
        yield
    except errors.GatedRepoError as error:
        raise gated(name) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"hf:{name}: no such revision {revision!r}", f"choose one of {HUB}{name}/commits/main, or leave it out"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise hidden(name) from error
    except errors.HFValidationError as error:
        raise UserError(f"hf:{name}: not a name of a set", "write it as OWNER/NAME") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise offline(name, revision, error) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code == 401:  # also for what does not exist, unless one is logged in
            raise hidden(name) from error
        if error.response.status_code == 403:
            raise gated(name) from error
        raise UserError(
            f"hf:{name}: the hub answers {error.response.status_code} {error.response.reason_phrase}", "try again later"
        ) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the HTTP library that this version uses
        raise offline(name, revision, error) from error
    except OSError as error:
        raise UserError(f"hf:{name}: {error.strerror or error}", "give another folder, with --out or as HF_HOME") from error


def hidden(name: str) -> UserError:
    """The hub does not say whether it is there."""
    return UserError(
        f"hf:{name}: no such set, or it is private",
        f"check the name at {HUB}{name}; if it is private, log in with `hf auth login`",
    )


def gated(name: str) -> UserError:
    """The owner asks for consent first."""
    return UserError(f"hf:{name}: access is restricted", f"accept the terms at {HUB}{name} and log in with `hf auth login`")


def offline(name: str, revision: str | None, error: BaseException) -> UserError:
    """The hub is out of reach."""
    known = sorted(path.stem.rpartition("@")[2] for path in listings().glob(f"{name.replace('/', '--')}*@*.json"))
    if revision is None and known:
        return UserError(f"hf:{name}: the hub is out of reach", f"use what is here already: hf:{name}@{known[0]}")
    why = "offline mode is on (HF_HUB_OFFLINE)" if "offline mode" in str(error).lower() else "no network?"
    return UserError(
        f"hf:{name}: the hub is out of reach, {why}",
        f"run `codelm corpus download {name}` where there is a network, and bring its cache along (HF_HOME)",
    )


# What was listed: a commit never changes, so that a pinned set that is in the cache needs no network.


def listings() -> Path:
    """Where listings are kept, beside the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "codelm"


def listing_file(name: str, folder: str, commit: str) -> Path:
    """The file for one listing."""
    return listings() / f"{'--'.join(filter(None, (name, folder))).replace('/', '--')}@{commit}.json"


def remember(found: HubSet) -> None:
    """Keeps a listing, if the cache can be written to."""
    path = listing_file(found.name, found.folder, found.commit)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(found), indent=1))


def recall(name: str, folder: str, commit: str) -> HubSet | None:
    """A listing that was kept, or None."""
    try:
        row = json.loads(listing_file(name, folder, commit).read_bytes())
        return HubSet(row["name"], row["commit"], row["folder"], tuple(HubFile(**file) for file in row["files"]))
    except (ImportError, OSError, ValueError, KeyError, TypeError):
        return None
