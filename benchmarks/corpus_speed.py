"""How fast a corpus is built: ours as a whole against datatrove's stock filters and MinHash, same files, one run.

    python benchmarks/corpus_speed.py --mb 100
    python benchmarks/corpus_speed.py --mb 20 --source ~/src

Ours: `codelm corpus build` in a process of its own, everything on: listing, licences, filters, syntax check, secrets and
personal data, decontamination, exact and near deduplication, split, shards, attribution index, report. The peer: datatrove's
GopherRepetitionFilter, GopherQualityFilter, FineWebQualityFilter and PIIFormatter, then its four MinHash stages, with its own
settings, on JSONL that lies ready (making it is not timed). Its filters are made for prose and would drop nearly all code, so
what they drop is kept for MinHash: both sides compare all files. Same number of workers. datatrove's reader and word splitter
want `pip install orjson spacy nltk`. Prints one JSON object: MB/s of each, their ratio, peak memory of all processes together,
and our MB/s by step.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from codelm.config.corpus import Filters
from codelm.corpus.paths import path_rejection

DROP = Filters().drop
POLL_SECONDS = 0.1
MAX_FILE_BYTES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=100, help="how much source code")
    parser.add_argument(
        "--source", type=Path, action="append", help="folders of code (default: this Python's library and packages)"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", nargs=2, metavar=("JSONL", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(Path(arguments.peer[0]), Path(arguments.peer[1]), arguments.workers)
        return
    sources = arguments.source or [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    with tempfile.TemporaryDirectory(prefix="corpus-speed-") as name:
        folder = Path(name)
        files, size = gather(sources, arguments.mb * 1_000_000, folder, arguments.workers, arguments.seed)
        run = folder / "run"
        config = folder / "corpus.yaml"
        config.write_text(
            f"sources: [{folder / 'source'}]\nlicenses: {{unknown: keep}}\nexecution: {{workers: {arguments.workers}}}\n"
        )
        ours = measured([sys.executable, "-m", "cli.main", "corpus", "build", "--run", str(run), "--config", str(config)])
        theirs = measured(
            [
                sys.executable,
                __file__,
                "--workers",
                str(arguments.workers),
                "--peer",
                str(folder / "jsonl"),
                str(folder / "out"),
            ]
        )
        counts = json.loads((run / "corpus" / "manifest.json").read_text())["counts"]
    mb = size / 1e6
    result = {
        "files": files,
        "mb": round(mb, 1),
        "workers": arguments.workers,
        "ours": {"mb_per_s": round(mb / ours["seconds"], 2), **ours},
        "datatrove": {"mb_per_s": round(mb / theirs["seconds"], 2), **theirs},
        "ratio": round(theirs["seconds"] / ours["seconds"], 2),
        "kept": counts["files_kept"],
        "rejected": counts["rejected"],
        "steps_mb_per_s": {
            step: round(spent["bytes"] / 1e6 / max(spent["seconds"], 1e-9), 1) for step, spent in counts["steps"].items()
        },
    }
    print(json.dumps(result))


def gather(sources: list[Path], wanted: int, folder: Path, parts: int, seed: int) -> tuple[int, int]:
    """Copies a seeded choice of Python files to `source/`, and their texts to `jsonl/`; returns files and bytes.

    None that our rules on paths would drop unread: every byte counted is a byte judged.
    """
    found = sorted(
        {
            path: str(Path(str(number), path.relative_to(source)))
            for number, source in enumerate(sources)
            for path in source.rglob("*.py")
            if "site-packages" not in path.relative_to(source).parts  # one source may lie in another
            and path_rejection(path.relative_to(source).as_posix(), DROP) is None
            and path.is_file()
            and 0 < path.stat().st_size <= MAX_FILE_BYTES
        }.items()
    )
    random.Random(seed).shuffle(found)
    (folder / "jsonl").mkdir()
    outputs = [(folder / "jsonl" / f"{part}.jsonl").open("w", encoding="utf-8") for part in range(parts)]
    size = count = 0
    for path, inside in found:
        if size >= wanted:
            break
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        target = folder / "source" / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        outputs[count % parts].write(json.dumps({"id": inside, "text": text}) + "\n")
        size += path.stat().st_size
        count += 1
    for output in outputs:
        output.close()
    return count, size


def measured(command: list[str]) -> dict[str, Any]:
    """Runs a command: its wall seconds, and the peak of the memory that it and its children hold together."""
    peak = 0
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"}
    )
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(POLL_SECONDS):
            try:
                root = psutil.Process(process.pid)
                peak = max(peak, sum(rss(one) for one in [root, *root.children(recursive=True)]))
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - start
    ended.set()
    thread.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors[-2000:]}")
    return {"seconds": round(seconds, 1), "peak_mb": round(peak / 1e6)}


def rss(process: psutil.Process) -> int:
    """Bytes that a process holds, 0 if it is gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def peer(source: Path, out: Path, workers: int) -> None:
    """datatrove as it comes."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from loguru import logger

    logger.disable("datatrove")
    config = MinhashConfig()
    parts = len(list(source.glob("*.jsonl")))

    def run(name: str, tasks: int, *pipeline: Any) -> None:
        executor = LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=workers, logging_dir=str(out / "logs" / name))
        executor.run()

    filters = [GopherRepetitionFilter, GopherQualityFilter, FineWebQualityFilter]
    run(
        "filter",
        parts,
        JsonlReader(str(source)),
        *(one(exclusion_writer=JsonlWriter(str(out / "filtered"), "${rank}-" + one.__name__ + ".jsonl.gz")) for one in filters),
        PIIFormatter(),
        JsonlWriter(str(out / "filtered")),
    )
    signatures, buckets, clusters = (str(out / name) for name in ("signatures", "buckets", "clusters"))
    filtered = JsonlReader(str(out / "filtered"))
    files = len(list((out / "filtered").iterdir()))
    run("signatures", files, filtered, MinhashDedupSignature(signatures, config=config))
    run("buckets", config.num_buckets, MinhashDedupBuckets(signatures, buckets, config=config))
    run("clusters", 1, MinhashDedupCluster(buckets, clusters, config=config))
    run("deduplicated", files, filtered, MinhashDedupFilter(clusters), JsonlWriter(str(out / "deduplicated")))


if __name__ == "__main__":
    main()
