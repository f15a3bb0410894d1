"""What a file says of itself: each rule keeps it or says why not. The step that is shared out among workers."""

import hashlib
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from codelm.config.corpus import CorpusConfig
from codelm.corpus.content import content_rejection, generated_marker
from codelm.corpus.decontaminate import Contamination
from codelm.corpus.languages import is_open, language_of, languages_of_name, settle
from codelm.corpus.licenses.policy import license_rejection
from codelm.corpus.licenses.tree import Trees
from codelm.corpus.near_duplicates import runs, signature
from codelm.corpus.order import imports_of
from codelm.corpus.parse import parse_rejection
from codelm.corpus.paths import path_rejection
from codelm.corpus.rows import CANDIDATE, REJECTED, RowWriter
from codelm.corpus.secrets import redact
from codelm.corpus.sources.base import Entry, Rejection, load_piece
from codelm.lexemes import lexemes

HEAD_BYTES = 256


def normalised_hash(data: bytes) -> bytes:
    """16-byte BLAKE2b of a text without white space at the ends of lines and of the file, for exact deduplication."""
    plain = b"\n".join(line.rstrip() for line in data.split(b"\n")).strip(b"\n")
    return hashlib.blake2b(plain, digest_size=16).digest()


def git_blob_sha(data: bytes) -> str:
    """The SHA-1 by which git knows a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Draft:
    """A file on its way through the rules, which add to its columns."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.size = entry.size or 0
        self.data = b""
        """UTF-8, without byte order mark, lines ended by a line feed"""
        self.text = ""
        origin = entry.origin
        self.columns: dict[str, Any] = {
            "repo": origin.repo,
            "path": entry.path,
            "size": entry.size,
            "version": origin.version,
            "source_url": origin.url(entry.path),
        }


class Cleaner:
    """The rules, cheapest first."""

    def __init__(self, config: CorpusConfig, trees: Trees) -> None:
        self.config = config
        self.trees = trees
        self.languages = set(config.languages)
        self.contamination = Contamination.load(config.decontaminate)
        self.rules = [
            self.listed,
            self.language,
            self.path,
            self.bytes,
            self.content,
            self.license,
            self.syntax,
            self.redaction,
            self.lexemes,
        ]
        self.clock: dict[str, dict[str, float]] = defaultdict(lambda: {"files": 0, "bytes": 0, "seconds": 0.0})

    def reject(self, draft: Draft) -> Rejection | None:
        """Runs the rules on a file up to the first that rejects it; None if it stays."""
        for rule in self.rules:
            start = time.perf_counter()
            try:
                rejection = rule(draft)
            except Exception as error:  # one strange file must not end a build of millions; it is counted and named
                rejection = Rejection("error", f"{rule.__name__}: {type(error).__name__}: {error}"[:500])
            spent = self.clock[rule.__name__]
            spent["seconds"] += time.perf_counter() - start
            spent["files"] += 1
            spent["bytes"] += draft.size
            if rejection:
                return rejection
        return None

    def listed(self, draft: Draft) -> Rejection | None:
        """Symbolic links, devices, folders of installed packages, broken rows: what the source said of it."""
        return draft.entry.rejection

    def language(self, draft: Draft) -> Rejection | None:
        """Sets `language`, by name or first line."""
        entry = draft.entry
        assert entry.blob is not None
        try:
            language = language_of(entry.path, lambda: entry.blob.read(HEAD_BYTES) if entry.blob else b"")
        except OSError as error:
            return unreadable(error)
        draft.columns["language"] = language
        # a name that several languages share is settled by the text
        if self.languages.isdisjoint(languages_of_name(entry.path) if is_open(entry.path) else [language]):
            return Rejection("language", language or Path(entry.path).suffix.lower()[:16] or "no extension")
        return None

    def path(self, draft: Draft) -> Rejection | None:
        """Tests, vendored, generated, built and hidden files by their paths."""
        return path_rejection(draft.entry.path, self.config.filters.drop)

    def bytes(self, draft: Draft) -> Rejection | None:
        """Sets the text, `size` and `blob_sha`; the latter two are of the bytes as found."""
        entry = draft.entry
        limit = self.config.filters.max_file_bytes
        assert entry.blob is not None
        try:
            # one byte more than allowed: a file may have grown since it was listed
            data = b"" if draft.size > limit else entry.blob.read(limit + 1)
        except OSError as error:
            return unreadable(error)
        if draft.size > limit or len(data) > limit:
            return Rejection("size", f"{max(draft.size, len(data))} bytes")
        draft.columns |= {"size": len(data), "blob_sha": git_blob_sha(data)}
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Rejection("encoding", "UTF-16")
        if b"\0" in data:
            return Rejection("binary", f"NUL at byte {data.index(0)}")
        try:
            draft.text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            return Rejection("encoding", f"not UTF-8 at byte {error.start}")
        draft.data = draft.text.encode()
        language = settle(draft.columns["language"], entry.path, draft.text)
        draft.columns["language"] = language
        return None if language in self.languages else Rejection("language", language or "undecided")

    def content(self, draft: Draft) -> Rejection | None:
        """Generated, too short, minified, repetitive, or data rather than code."""
        return generated_marker(draft.text) or content_rejection(draft.text, draft.columns["language"], self.config.filters)

    def license(self, draft: Draft) -> Rejection | None:
        """Sets `license` and what is known of where it comes from."""
        found = self.trees.license(draft.entry, draft.text)
        draft.columns |= {
            "license": found.spdx,
            "license_method": found.method,
            "license_confidence": found.confidence,
            "license_sha": found.sha,
            "copyright": found.copyright,
        }
        return license_rejection(found, self.config.licenses)

    def syntax(self, draft: Draft) -> Rejection | None:
        """What its language's parser does not take."""
        if not self.config.filters.parse:
            return None
        return parse_rejection(draft.text, draft.data, draft.columns["language"], self.config.filters)

    def redaction(self, draft: Draft) -> Rejection | None:
        """Replaces secrets and personal data; sets `redacted`."""
        redacted = redact(draft.text, self.config.redact)
        if redacted.found:
            draft.text, draft.data = redacted.text, redacted.text.encode()
        draft.columns["redacted"] = [{"kind": kind, "count": count} for kind, count in sorted(redacted.found.items())]
        return None

    def lexemes(self, draft: Draft) -> Rejection | None:
        """Looks for benchmarks; sets `token_count` and what copies are known by."""
        found = lexemes(draft.data)
        if benchmark := self.contamination.find(found, draft.data):
            return Rejection("contaminated", benchmark)
        dedup = self.config.dedup
        draft.columns |= {
            "content": draft.text,
            "token_count": len(found.hashes),
            "text_hash": normalised_hash(draft.data),
            "signature": signature(runs(found.hashes, dedup), dedup) if dedup.near else None,
            "imports": imports_of(draft.text, draft.columns["language"]),
        }
        return None


def unreadable(error: OSError) -> Rejection:
    """It could be listed and not read."""
    return Rejection("unreadable", error.strerror or str(error))


def rejected_row(columns: dict[str, Any], rejection: Rejection) -> dict[str, Any]:
    """A row of what was left out."""
    row = {name: columns.get(name) for name in REJECTED.names}
    return row | {"reason": rejection.reason, "detail": rejection.detail}


class Clean(PipelineStep):  # type: ignore[misc, unused-ignore]
    """Judges every file of a piece: `candidates/<rank>.parquet`, `rejected/<rank>.parquet` and `steps/<rank>.json`."""

    name = "clean"
    type = "filter"

    def __init__(self, work: Path, config: CorpusConfig) -> None:
        """work: holds `pieces/` and `licenses/`."""
        super().__init__()
        self.work = work
        self.config = config

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Works off piece `rank` of `world_size`; yields nothing, all goes to files."""
        pa.set_cpu_count(1)  # the tasks are what runs side by side
        cleaner = Cleaner(self.config, Trees.open(self.work / "licenses"))
        name = f"{rank:05d}"
        with (
            RowWriter(self.work / "candidates" / f"{name}.parquet", CANDIDATE) as kept,
            RowWriter(self.work / "rejected" / f"{name}.parquet", REJECTED) as rejected,
        ):
            for entry in load_piece(self.work / "pieces" / f"{name}.pickle").entries():
                draft = Draft(entry)
                if rejection := cleaner.reject(draft):
                    rejected.write(rejected_row(draft.columns, rejection))
                else:
                    kept.write(draft.columns)
        (self.work / "steps").mkdir(exist_ok=True)
        temporary = self.work / "steps" / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps(cleaner.clock), encoding="utf-8")
        temporary.replace(self.work / "steps" / f"{name}.json")
        yield from ()
