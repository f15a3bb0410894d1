"""The dry run: what a build would keep and drop, how large it would be and how long it would take."""

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from codelm.config.corpus import CorpusConfig
from codelm.corpus.build import list_pieces, most_first
from codelm.corpus.clean import Clean
from codelm.corpus.decide import Candidates, unique
from codelm.corpus.execute import run_tasks
from codelm.corpus.licenses.tree import collect
from codelm.corpus.near_duplicates import s_curve
from codelm.corpus.rows import table
from codelm.corpus.sources.open import open_sources
from codelm.progress import Progress, silent

SAMPLE_BYTES = 64_000_000
PIECES = 32
"""That a sample has at least, where there is so much."""


def plan(config: CorpusConfig, run: Path, sample_bytes: int = SAMPLE_BYTES, progress: Progress = silent) -> dict[str, Any]:
    """Judges up to `sample_bytes` of the sources, picked by the seed, for real, and scales up. Writes nothing that stays.

    Returns `sources` {given: bytes}, `bytes` in all, `sampled` bytes, `exact` (the sample was all of it), and, scaled up,
    `kept` and `dropped` {reason: {files, bytes}}, `languages` and `licenses` of the kept, `seconds` to clean it all, and the
    `s_curve` of the deduplication. Copies are found within the sample only: of more code, more is dropped.
    """
    sources = open_sources(config.sources, run=run)
    with tempfile.TemporaryDirectory(prefix="codelm-plan-") as name:
        work = Path(name)
        # small pieces from all over: neighbours are alike
        small = max(1, sample_bytes // 1_000_000 // PIECES)
        execution = config.execution.model_copy(update={"piece_mb": min(small, config.execution.piece_mb)})
        listed = list_pieces(work, config.model_copy(update={"execution": execution}), sources)
        total = sum(size for _, size in listed)
        sample = choose(listed, sample_bytes, config.seed)
        for rank, piece in enumerate(sample):  # the sample's pieces become the first ones
            (work / "pieces" / f"{piece:05d}.pickle").rename(work / "pieces" / f"{rank:05d}.pickle")
        sizes = [listed[piece][1] for piece in sample]
        collect((entry for source in sources for entry in source.license_files()), work / "licenses")
        start = time.monotonic()
        run_tasks(Clean(work, config), sizes, work / "logs", config.execution, progress)
        seconds = time.monotonic() - start

        kept = Counter[str]()
        dropped: dict[str, Counter[str]] = {}
        languages, licenses = Counter[str](), Counter[str]()
        for row in table(work / "rejected", ["reason", "size"]):
            dropped.setdefault(row["reason"], Counter[str]()).update(files=1, bytes=row["size"] or 0)
        if any(True for _ in table(work / "candidates", ["size"])):
            found = Candidates(work / "candidates")
            single, _, copies = unique(found, config.dedup)
            for index, reason, _ in copies:
                dropped.setdefault(reason, Counter[str]()).update(files=1, bytes=int(found.size[index]))
            for index in single:
                kept.update(files=1, bytes=int(found.size[index]))
                languages[found.language[index]] += int(found.size[index])
                licenses[found.license[index] or "unknown"] += int(found.size[index])

    scale = total / sum(sizes) if sum(sizes) else 1.0
    by_source = Counter[str]()
    for given, size in listed:
        by_source[given] += size

    def scaled(count: Counter[str]) -> dict[str, int]:
        return most_first(Counter({name: round(value * scale) for name, value in count.items()}))

    return {
        "sources": dict(by_source),
        "bytes": total,
        "sampled": sum(sizes),
        "exact": len(sample) == len(listed),
        "kept": scaled(kept),
        "dropped": {reason: scaled(count) for reason, count in sorted(dropped.items(), key=lambda item: -item[1]["bytes"])},
        "languages": scaled(languages),
        "licenses": scaled(licenses),
        "seconds": round(seconds * scale, 1),
        "s_curve": [[round(similarity, 2), round(share, 4)] for similarity, share in s_curve(config.dedup)],
    }


def choose(listed: list[tuple[str, int]], sample_bytes: int, seed: int) -> list[int]:
    """Pieces of about `sample_bytes` together, in ascending order; at least one."""
    order = list(range(len(listed)))
    random.Random(seed).shuffle(order)  # noqa: S311
    chosen: list[int] = []
    size = 0
    for piece in order:
        if chosen and size + listed[piece][1] > sample_bytes:
            continue
        chosen.append(piece)
        size += listed[piece][1]
    return sorted(chosen)
