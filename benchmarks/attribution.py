"""Attribution: what the index of a corpus finds, what it does not, how fast, and how large it is.

The corpus is the Python code of this machine: the standard library and the installed packages, about 50 MB, less every eighth
package, which is held out. Beside the index stands an exact oracle: the hashes of all runs of 30 lexemes of the corpus.

- verbatim: runs of 30 to 128 lexemes out of the corpus, as they are, indented by four more, and by a tab: all must be found,
  with the file that they are from, over their full extent;
- changed: the same with every 20th lexeme another one: none may be found;
- held out: 64 lexemes of code that is not in the corpus: found if and only if the oracle knows a run of them.

    python benchmarks/attribution.py                    about 3 minutes
    python benchmarks/attribution.py --megabytes 5 --queries 200   a glance

The last line is one JSON object with all figures.
"""

import argparse
import json
import random
import resource
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codelm.attribution.index import build_index
from codelm.attribution.lookup import Index, Match
from codelm.attribution.winnow import RUN
from codelm.corpus.rows import ROW
from codelm.lexemes import Hashes, grams, lexemes

HELD_OUT = 8
LENGTH = 64


class File(NamedTuple):
    """A file of code."""

    repo: str
    path: str
    content: str


class Sample(NamedTuple):
    """Some consecutive lexemes of a file."""

    file: File
    text: str


def packages() -> Iterator[tuple[str, list[Path]]]:
    """The modules and packages of this Python: their names and files, in the order of the names."""
    roots = sorted({Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})
    for root in roots:
        for top in sorted(root.iterdir()):
            if top in roots or top.name in ("site-packages", "dist-packages", "__pycache__"):
                continue
            files = [top] if top.suffix == ".py" else sorted(top.rglob("*.py")) if top.is_dir() else []
            if files:
                yield f"{root.name}/{top.name}", files


def read(repo: str, paths: list[Path]) -> list[File]:
    """The files that are UTF-8 and below a megabyte."""
    files = []
    for path in paths:
        try:
            content = path.read_bytes().decode("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if 0 < len(content) < 1_000_000:
            files.append(File(repo, str(path), content))
    return files


def collect(megabytes: float) -> tuple[list[File], list[File]]:
    """The corpus and what is held out, packages in a random order until there is enough of both."""
    named = list(packages())
    random.Random(0).shuffle(named)
    corpus: list[File] = []
    held: list[File] = []
    sizes = {True: 0.0, False: 0.0}
    enough = {True: megabytes * 1e6 / HELD_OUT, False: megabytes * 1e6}
    for number, (repo, paths) in enumerate(named):
        out = number % HELD_OUT == HELD_OUT - 1
        if sizes[out] < enough[out]:
            files = read(repo, paths)
            (held if out else corpus).extend(files)
            sizes[out] += sum(len(file.content) for file in files)
    return corpus, held


def write_shards(folder: Path, files: list[File]) -> list[Path]:
    """The files as shards of a snapshot."""
    empty = {f.name: None if f.nullable else "" if pa.types.is_string(f.type) else 0 for f in ROW}
    paths: list[Path] = []
    for first in range(0, len(files), 1000):
        rows = [{**empty, **file._asdict(), "license": "MIT"} for file in files[first : first + 1000]]
        paths.append(folder / f"train-{len(paths):05}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW), paths[-1], compression="zstd")
    return paths


def runs_of(text: str) -> Hashes:
    """The hashes of all its runs of RUN lexemes."""
    return grams(lexemes(text.encode()).hashes, RUN)


def samples(files: list[File], count: int, shortest: int, longest: int, seed: int) -> list[Sample]:
    """Runs of lexemes at random places of random files that are long enough."""
    pick = random.Random(seed)
    found: list[Sample] = []
    for file in pick.choices(files, k=2 * count):
        data = file.content.encode()
        all_of_it = lexemes(data)
        length = pick.randint(shortest, longest)
        if len(all_of_it.hashes) >= length and len(found) < count:
            first = pick.randint(0, len(all_of_it.hashes) - length)
            text = data[all_of_it.starts[first] : all_of_it.ends[first + length - 1]].decode()
            found.append(Sample(file, text))
    return found


def changed(text: str, every: int = 20) -> str:
    """The text with every so many-th lexeme, beginning with the tenth, replaced by a word that stands nowhere else."""
    data = text.encode()
    found = lexemes(data)
    parts, place = [], 0
    for number in range(every // 2, len(found.hashes), every):
        parts += [data[place : found.starts[number]], f"zzq{number}x7".encode()]
        place = found.ends[number]
    return b"".join([*parts, data[place:]]).decode()


def covers(sample: Sample, text: str, matches: list[Match]) -> bool:
    """Whether the matches cover a sample, and name its file, where not more files hold it than are named."""
    reached = 0
    for match in sorted(matches, key=lambda match: match.start):
        if text[reached : match.start].strip():
            break
        reached = max(reached, match.end)
    named = any(s.path == sample.file.path for m in matches for s in m.sources)
    return not text[reached:].strip() and (named or any(m.n_files > len(m.sources) for m in matches))


def verbatim(index: Index, found_in: list[Sample], change: Callable[[str], str]) -> float:
    """The share of samples that is found."""
    texts = [change(sample.text) for sample in found_in]
    return float(np.mean([covers(s, text, index.matches(text) or []) for s, text in zip(found_in, texts, strict=True)]))


def latency(index: Index, texts: list[str]) -> dict[str, float]:
    """Milliseconds of a lookup: percentiles, each text's best of three passes."""
    seconds = np.full((3, len(texts)), np.inf)
    for row in seconds:
        for number, text in enumerate(texts):
            start = time.perf_counter()
            index.matches(text)
            row[number] = time.perf_counter() - start
    first, best = seconds[0] * 1e3, seconds.min(axis=0) * 1e3
    return {f"p{p}_ms": round(float(np.percentile(best, p)), 3) for p in (50, 95, 99)} | {
        "max_ms": round(float(best.max()), 3),
        "first_pass_p99_ms": round(float(np.percentile(first, 99)), 3),
    }


def main() -> None:
    """Builds an index and asks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=50.0, help="of the corpus")
    parser.add_argument("--queries", type=int, default=2000, help="of each kind")
    arguments = parser.parse_args()
    corpus, held = collect(arguments.megabytes)
    with tempfile.TemporaryDirectory() as name:
        shards = write_shards(Path(name), corpus)
        folder = Path(name) / "attribution"
        folder.mkdir()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.perf_counter(), time.process_time()
        meta = build_index(folder, shards)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        index = Index.open(folder)
        print(f"index of {meta['bytes'] / 1e6:.1f} MB in {seconds:.1f} s", file=sys.stderr, flush=True)

        oracle = np.unique(np.concatenate([runs_of(file.content) for file in corpus]))

        def known(text: str) -> bool:
            hashes = runs_of(text)
            return bool((np.searchsorted(oracle, hashes, "right") > np.searchsorted(oracle, hashes, "left")).any())

        planted = samples(corpus, arguments.queries, RUN, 128, seed=1)
        completions = samples(corpus, arguments.queries, LENGTH, LENGTH, seed=2)
        strangers = samples(held, arguments.queries, LENGTH, LENGTH, seed=3)
        new = [sample.text for sample in strangers if not known(sample.text)]
        shared = [sample.text for sample in strangers if known(sample.text)]
        mangled = [changed(sample.text) for sample in planted]
        kinds = [match.kind for sample in completions for match in index.matches(sample.text) or []]
        figures = {
            "benchmark": "attribution",
            "corpus_mb": round(meta["bytes"] / 1e6, 1),
            "documents": meta["documents"],
            "held_out_mb": round(sum(len(file.content) for file in held) / 1e6, 1),
            "build_mb_per_second": round(meta["bytes"] / 1e6 / seconds, 1),
            "build_mb_per_cpu_second": round(meta["bytes"] / 1e6 / cpu_seconds, 1),
            "build_memory_grown_mb": round(grown / 1024 / (1024 if sys.platform == "darwin" else 1)),
            "index_bytes_per_corpus_byte": round(sum(meta["sizes"].values()) / meta["bytes"], 2),
            "part_bytes_per_corpus_byte": {file: round(size / meta["bytes"], 3) for file, size in meta["sizes"].items()},
            "common_fingerprints": meta["common"],
            "verbatim_found": verbatim(index, planted, lambda text: text),
            "indented_found": verbatim(index, planted, lambda text: text.replace("\n", "\n    ")),
            "tabs_found": verbatim(index, planted, lambda text: text.replace("    ", "\t").replace("\n", "\n\t")),
            "changed_found": sum(bool(index.matches(text)) for text in mangled),
            "changed_queries": len(mangled),
            "held_out_new_found": sum(bool(index.matches(text)) for text in new),
            "held_out_new_queries": len(new),
            "held_out_shared_found": sum(bool(index.matches(text)) for text in shared),
            "held_out_shared_queries": len(shared),
            "boilerplate_share_of_matches": round(kinds.count("boilerplate") / max(len(kinds), 1), 4),
            "match": latency(index, [sample.text for sample in completions]),
            "no_match": latency(index, new),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
