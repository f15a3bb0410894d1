"""scancode-toolkit in a process of its own, which takes 1.4 GB and four seconds to start, and is gone when it is done.

    python -m codelm.corpus.licenses.scancode

reads texts, a JSON string a line, and answers each with a line: [expression or null, confidence], or null if it found no end.
"""

import importlib.metadata
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

START_SECONDS = 300.0
"""For loading its index, on a busy machine."""
TEXT_SECONDS = 300.0
"""For one text; it gives up by itself after half of that."""
MAX_FAILURES = 3
WHOLE_SCORE = 80
"""Of a match with a whole licence text, in percent."""
SHORTEST_MENTION = 6
"""Words."""


class Detection(NamedTuple):
    """What scancode finds in a text."""

    spdx: str | None
    confidence: float


@cache
def scancode_version() -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version("scancode-toolkit-mini")
    except importlib.metadata.PackageNotFoundError:
        return None


class Scancode:
    """The other process, started when first needed. Use as a context manager."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()
        self.failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def detect(self, text: str) -> Detection | None:
        """What it finds in a text; None if it is not installed, dies, or does not come to an end."""
        if scancode_version() is None or self.failures >= MAX_FAILURES:
            return None
        try:
            process = self.process or self.start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            answer = self.answers.get(timeout=TEXT_SECONDS)
            found = json.loads(answer) if answer else None
        except (OSError, queue.Empty, ValueError, MemoryError):
            answer = None
        if not answer:
            self.failures += 1
            self.stop()
            return None
        return Detection(*found) if found else None

    def start(self) -> "subprocess.Popen[str]":
        """Starts the process. Raises queue.Empty if it takes too long, OSError if it cannot be started."""
        self.answers = queue.Queue()
        process = self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=pass_on, args=(process.stdout, self.answers), daemon=True).start()
        if self.answers.get(timeout=START_SECONDS) is None:
            raise OSError("scancode does not start")
        return process

    def stop(self) -> None:
        """Ends the process, if it runs."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    assert pipe is not None
                    pipe.close()
                except (OSError, ValueError):
                    pass  # what was left in its buffer has nowhere to go


def pass_on(lines: IO[str], answers: "queue.Queue[str | None]") -> None:
    """Puts lines into a queue as they come, and None after the last."""
    try:
        for line in lines:
            answers.put(line)
    except (OSError, ValueError):
        pass
    answers.put(None)


# ------------------------------------------------------------------ in the other process


def detect(text: str) -> Detection:
    """What scancode finds in a text, all that it finds joined by AND. Raises what scancode raises.

    Beside a whole licence text, what only mentions a licence in a few words ("GPL-compatible") does not count. The texts of
    licences between which the text leaves a choice are the choice, not a further demand.
    """
    from licensedcode.cache import (  # type: ignore[import-untyped]
        build_spdx_license_expression,
        get_cache,
        get_index,
    )

    matches = get_index().match(query_string=text, deadline=time.time() + TEXT_SECONDS / 2)
    matches = [match for match in matches if not (match.rule.is_license_intro or match.rule.is_license_clue)]
    if any(match.rule.is_license_text and match.score() >= WHOLE_SCORE for match in matches):
        matches = [match for match in matches if match.rule.is_license_text or match.len() >= SHORTEST_MENTION]
    expressions = list(dict.fromkeys(match.rule.license_expression for match in matches))
    if not expressions:
        return Detection(None, 0.0)
    licensing = get_cache().licensing
    choice = {family(key) for one in expressions if " OR " in one for key in licensing.license_keys(one)}
    chosen = [one for one in expressions if " " in one or family(one) not in choice]
    joined = " AND ".join(f"({one})" for one in chosen)
    spdx = build_spdx_license_expression(str(licensing.parse(joined).simplify()), licensing=licensing)
    return Detection(spdx, round(min(match.score() for match in matches) / 100, 2))


def family(key: str) -> str:
    """The name of a licence without its version: gpl-2.0-plus → gpl."""
    return key.partition("-")[0]


def answers(texts: Iterator[str]) -> Iterator[Any]:
    """One answer for each text, and one before them when the index is loaded."""
    from licensedcode.cache import get_index

    get_index()
    yield "ready"
    for text in texts:
        try:
            yield detect(json.loads(text))
        except Exception:  # whatever a strange text makes it raise, the next one may be fine
            yield None


def main() -> None:
    """Answers until its input ends; whatever libraries print goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for answer in answers(iter(sys.stdin)):
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
