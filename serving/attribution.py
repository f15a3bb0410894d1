"""Where a completion stands verbatim in the corpus that the model was trained on, told or held back.

The lookup runs in a thread of its own after the text is written: tokens never wait for it, and an answer not for long. The
index is read into memory from the start on, in another one: the first lookup would else take longer than an answer may wait.
"""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from codelm.attribution.lookup import Index, Match
from codelm.attribution.winnow import RUN
from codelm.errors import UserError
from codelm.lexemes import lexemes
from serving.request import Completion, CompletionRequest

logger = logging.getLogger(__name__)

FOLDER = "attribution"
"""Of the index, beside the GGUF: `codelm export --attribution` puts it there."""
SECONDS = 0.25
"""What an answer may wait for the lookup, which takes a few milliseconds where the index is in memory."""
MAX_SOURCES = 5
"""Files told of one match; `files` says how many there are."""


class AttributionMode(StrEnum):
    """What to do with a completion that stands verbatim in the corpus."""

    OFF = "off"
    WARN = "warn"
    BLOCK = "block"


class Attributor:
    """Looks completions up in an index. Safe to use from every thread."""

    def __init__(self, index: Index, mode: AttributionMode, seconds: float = SECONDS) -> None:
        """mode: WARN tells where a text stands; BLOCK besides cuts it before, and holds back what could not be looked up in
        `seconds`.
        """
        self.mode = mode
        self.seconds = seconds
        self.bytes = sum(index.meta["sizes"].values())
        self._index = index
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="attribution")
        self._closed = threading.Event()
        self._reading = threading.Thread(
            target=index.read_ahead, args=(self._closed.is_set,), name="attribution-index", daemon=True
        )
        self._reading.start()

    @property
    def ready(self) -> bool:
        """Whether the whole index has been read; lookups are made before too, and may take longer then."""
        return not self._reading.is_alive()

    async def attribute(self, request: CompletionRequest, completion: Completion) -> Completion:
        """The completion with the files that it stands in, cut or hidden if they are to be blocked.

        Texts of fewer than RUN lexemes are never looked up: they are as they were, at once.
        """
        if len(completion.text) < RUN or len(lexemes(completion.text.encode("utf-8", "replace")).starts) < RUN:
            return completion
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._index.matches, completion.text, request.prefix)
        try:
            found = await asyncio.wait_for(work, self.seconds)
        except TimeoutError:
            logger.warning("a completion could not be looked up in the corpus within %s ms", round(self.seconds * 1000))
            return replace(completion, hidden_by="attribution") if self.mode is AttributionMode.BLOCK else completion
        matches = [match for match in found or [] if match.kind == "match"]
        if not matches:
            return completion
        told = replace(completion, attribution=tuple(map(described, matches)))
        return cut(told, matches[0].start) if self.mode is AttributionMode.BLOCK else told

    def close(self) -> None:
        """Ends the threads: no file of the index is read after it, for it may be written anew then."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
        self._reading.join()


def folder_of(model: Path) -> Path:
    """Where the index of a model lies: beside a GGUF, in the corpus of the run that a checkpoint is of."""
    folders = (model, *model.absolute().parents)[:3] if model.is_dir() else ()
    return next((folder / "corpus" for folder in folders if (folder / "corpus" / FOLDER).is_dir()), model.parent)


def open_attributor(folder: Path, mode: AttributionMode | None) -> Attributor | None:
    """The attributor of a bundle's folder; None if it is off. mode: None is WARN where there is an index, else OFF.

    Raises UserError if an index is wanted and not there, or if it is broken.
    """
    path = folder / FOLDER
    if mode is AttributionMode.OFF or (mode is None and not path.is_dir()):
        return None
    if not path.is_dir():
        fix = "`codelm export --attribution` of a run puts the index there; the default model has none"
        raise UserError(f"{path} does not exist", fix)
    return Attributor(Index.open(path), mode or AttributionMode.WARN)


def cut(completion: Completion, at: int) -> Completion:
    """The completion up to a character: its whole lines before, or what is before on an only line; hidden if nothing is."""
    text = completion.text[:at]
    text = text[: text.rfind("\n")] if "\n" in text else text.rstrip()
    return replace(completion, text=text, hidden_by=completion.hidden_by or (None if text.strip() else "attribution"))


def described(match: Match) -> dict[str, Any]:
    """What an answer tells of a match; start and end in characters of the completion as it was written."""
    sources = [
        {key: value for key, value in asdict(source).items() if key != "also_in"} for source in match.sources[:MAX_SOURCES]
    ]
    return {"start": match.start, "end": match.end, "lexemes": match.lexemes, "files": match.n_files, "sources": sources}
