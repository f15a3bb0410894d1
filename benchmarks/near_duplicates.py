"""Near-duplicate detection against the exact Jaccard similarity of all pairs.

The files are a sample of the Python installation that runs this, where near-duplicates exist in nature, and edited copies of
other files of it: identifiers renamed, lines dropped, added and moved, at rates that give similarities from 0.5 to 0.95. The
truth comes from an inverted index over all shingles, not from the candidates that are being measured. Recall and precision, of

- pairs: those at least as similar as the threshold, and those that become candidates and pass the comparison;
- files: those that the greedy choice drops, over the true pairs and as implemented.

    python benchmarks/near_duplicates.py                       2,500 files and 1,500 edited copies
    python benchmarks/near_duplicates.py --bands 32 --rows 8   another signature

The last line is one JSON object with all figures.
"""

import argparse
import json
import random
import re
import sysconfig
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from codelm.config.corpus import Dedup
from codelm.corpus.near_duplicates import buckets, chance, drop_near_duplicates, jaccard, runs, shingles, signature
from codelm.lexemes import Hashes, lexemes

MIN_BYTES, MAX_BYTES = 200, 1_000_000
Pairs = dict[tuple[int, int], float]


def sample(count: int, generator: random.Random) -> list[bytes]:
    """Different files of the standard library and of the installed packages."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = sorted({path for folder in folders for path in folder.rglob("*.py") if path.is_file()})
    sized = [path for path in paths if MIN_BYTES <= path.stat().st_size <= MAX_BYTES]
    chosen = generator.sample(sized, min(2 * count, len(sized)))
    return list(dict.fromkeys(path.read_bytes() for path in chosen))[:count]


def edited(data: bytes, rate: float, generator: random.Random) -> bytes:
    """A copy in which some lines are gone, new or moved and some names changed. rate: of the lines and of the names."""
    lines = []
    for line in data.split(b"\n"):
        chosen = generator.random()
        if chosen < rate / 3:
            continue
        lines.append(line)
        if chosen > 1 - rate / 3:
            lines.append(b"    value_%d = compute(%d)" % (generator.randrange(1000), generator.randrange(1000)))
        elif chosen > 1 - rate * 2 / 3 and len(lines) > 1:
            lines[-1], lines[-2] = lines[-2], lines[-1]
    text = b"\n".join(lines)
    names = sorted(set(re.findall(rb"\b[a-z_]{4,}\b", text)))
    renamed = {name: name + b"_new" for name in names if generator.random() < rate / 3}
    return re.sub(rb"\b[a-z_]{4,}\b", lambda match: renamed.get(match[0], match[0]), text)


def similar_pairs(sets: list[Hashes], threshold: float) -> Pairs:
    """All pairs of a similarity of at least the threshold, by an inverted index: shingle → files."""
    sizes = np.array([len(one) for one in sets])
    _, terms = np.unique(np.concatenate(sets), return_inverse=True)
    owners = np.repeat(np.arange(len(sets)), sizes)
    order = np.argsort(terms, kind="stable")
    postings, starts = owners[order], np.append(0, np.cumsum(np.bincount(terms)))
    found: Pairs = {}
    ends = np.append(0, np.cumsum(sizes))
    for one in range(len(sets)):
        mine = terms[ends[one] : ends[one + 1]]
        shared = np.zeros(len(sets), dtype=np.int64)
        for chunk in np.array_split(mine, len(mine) // 100_000 + 1):
            counts = starts[chunk + 1] - starts[chunk]
            skip = np.repeat(starts[chunk] - np.append(0, np.cumsum(counts)[:-1]), counts)
            shared += np.bincount(postings[skip + np.arange(len(skip))], minlength=len(sets))
        similarity = shared / np.maximum(sizes + sizes[one] - shared, 1)
        for other in np.flatnonzero(similarity >= threshold).tolist():
            if other > one:
                found[one, other] = float(similarity[other])
    return found


def greedy(count: int, pairs: Pairs) -> set[int]:
    """The files that go, the first of all that are alike staying."""
    partners = defaultdict(list)
    for one, other in pairs:
        partners[other].append(one)
    dropped: set[int] = set()
    for document in range(count):
        if any(other not in dropped for other in partners[document]):
            dropped.add(document)
    return dropped


def candidates(signatures: Any, config: Dedup) -> set[tuple[int, int]]:
    """All pairs that share a bucket."""
    found = buckets(signatures, config)
    members = defaultdict(list)
    for at, document in enumerate(found.documents.tolist()):
        for number in found.numbers[found.starts[at] : found.starts[at + 1]].tolist():
            members[number].append(document)
    return {(one, other) for bucket in members.values() for at, one in enumerate(bucket) for other in bucket[at + 1 :]}


def share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500)
    parser.add_argument("--edited", type=int, default=1500)
    parser.add_argument("--bands", type=int, default=Dedup().bands)
    parser.add_argument("--rows", type=int, default=Dedup().rows)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = Dedup(bands=arguments.bands, rows=arguments.rows)
    generator = random.Random(arguments.seed)
    files = sample(arguments.files, generator)
    natural = len(files)
    files += [
        edited(generator.choice(files[:natural]), generator.uniform(0.01, 0.3), generator) for _ in range(arguments.edited)
    ]
    size = sum(map(len, files))

    clock = [time.process_time()]
    texts = [lexemes(data).hashes for data in files]
    clock.append(time.process_time())
    signed = b"".join(signature(runs(text, config), config) for text in texts)
    clock.append(time.process_time())
    signatures = np.frombuffer(signed, dtype="<u4").reshape(len(texts), -1)
    sets = [shingles(text, config) for text in texts]
    clock.append(time.process_time())
    dropped = drop_near_duplicates(range(len(sets)), signatures, sets.__getitem__, config)
    clock.append(time.process_time())
    seconds = dict(zip(("lexemes", "signatures", "shingles", "comparison"), np.diff(clock).tolist(), strict=True))

    pairs = similar_pairs(sets, config.threshold)
    truth = greedy(len(sets), pairs)
    found = candidates(signatures, config)
    passed = {pair for pair in found if jaccard(sets[pair[0]], sets[pair[1]]) >= config.threshold}
    bins = [0.7, 0.75, 0.8, 0.9, 1.01]
    close = {
        f"{low} to {min(high, 1.0)}": {
            "pairs": len(within := [pair for pair, similarity in pairs.items() if low <= similarity < high]),
            "recall": share(len(passed.intersection(within)), len(within)),
        }
        for low, high in pairwise(bins)
    }
    print(
        json.dumps(
            {
                "files": len(sets),
                "edited": arguments.edited,
                "megabytes": round(size / 1e6, 1),
                "bands": config.bands,
                "rows": config.rows,
                "chance_at_threshold": round(chance(config.threshold, config), 4),
                "pairs": {
                    "true": len(pairs),
                    "candidates": len(found),
                    "recall": share(len(passed & pairs.keys()), len(pairs)),
                    "precision": share(len(passed & pairs.keys()), len(passed)),
                    "by_similarity": close,
                },
                "dropped": {
                    "true": len(truth),
                    "natural": sum(document < natural for document in truth),
                    "found": len(dropped),
                    "recall": share(len(truth & dropped.keys()), len(truth)),
                    "precision": share(len(truth & dropped.keys()), len(dropped)),
                    "kept_partner_is_similar": all(
                        kept not in dropped and jaccard(sets[document], sets[kept]) == similarity >= config.threshold
                        for document, (kept, similarity) in dropped.items()
                    ),
                },
                "megabytes_per_second": {name: round(size / 1e6 / one, 1) for name, one in seconds.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
