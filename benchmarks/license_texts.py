"""How often each way to tell a licence text answers, and whether scancode agrees: the licence files of installed packages.

    python benchmarks/license_texts.py [FOLDER…]

Without folders, those of the running Python's packages. The last line is a JSON object with the figures.
"""

import json
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

from codelm.corpus.licenses.expressions import rank
from codelm.corpus.licenses.names import is_license_name, is_notice_name
from codelm.corpus.licenses.scancode import Scancode, scancode_version
from codelm.corpus.licenses.texts import (
    SCANCODE_CHARS,
    by_hash,
    decode,
    identify_by_phrases,
    text_sha,
    without_references,
)


def main() -> None:
    """Asks all three about every unique text."""
    folders = sys.argv[1:] or [sysconfig.get_path("purelib")]
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*")) if is_license_name(file.as_posix())]
    files = [file for file in files if file.is_file() and not is_notice_name(file.as_posix())]
    texts = {text_sha(text): (file, text) for file in files for text in [decode(file.read_bytes())]}
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    with Scancode() as scancode:
        scancode.detect("to load its index")
        for file, text in texts.values():
            start = time.perf_counter()
            hashed = by_hash(text)
            seconds["hash"] += time.perf_counter() - start
            start = time.perf_counter()
            phrases = identify_by_phrases(text)
            seconds["phrases"] += time.perf_counter() - start
            start = time.perf_counter()
            answer = scancode.detect(text[:SCANCODE_CHARS])
            seconds["scancode"] += time.perf_counter() - start
            expected = without_references(answer.spdx) if answer else None
            if hashed:
                counts["hash"] += 1
                counts["hash_agrees"] += hashed.spdx == expected
            counts["scancode"] += bool(expected)
            if phrases:
                counts["phrases"] += 1
                counts["phrases_agree"] += phrases == expected
                counts["phrases_less_restrictive"] += rank(phrases) < rank(expected)
            if (hashed and hashed.spdx != expected) or phrases != expected:
                print(f"{file}: hash {hashed and hashed.spdx}, phrases {phrases}, scancode {expected}", flush=True)
    figures = {"files": len(files), "unique_texts": len(texts), "scancode_version": scancode_version(), **counts}
    print(json.dumps(figures | {f"{name}_ms_per_text": round(1000 * s / len(texts), 2) for name, s in seconds.items()}))


if __name__ == "__main__":
    main()
