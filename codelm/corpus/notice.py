"""NOTICE.txt and licenses/: whose code is in a corpus, and under which terms."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codelm.corpus.licenses.tree import TEXTS, TREES, Trees
from codelm.stage import write_atomically

UNKNOWN = "unknown"
MAX_COPYRIGHTS = 200
"""Lines that are listed of one repository; more stand in its files, which keep theirs."""


def write_notice(folder: Path, versions: Mapping[str, str | None], rows: Iterable[Mapping[str, Any]], collected: Path) -> None:
    """Writes NOTICE.txt, and the licence texts and upstream notices it refers to as licenses/<sha256>.txt.

    versions: repo → version or commit. rows: `repo`, `license`, `license_sha`, `copyright` of every kept file; read once.
    collected: the folder that `licenses.tree.collect` wrote, or the `licenses` of another corpus. Notices are carried on as
    Apache-2.0, section 4d, asks.
    """
    licenses: dict[str, Counter[str]] = defaultdict(Counter)
    copyrights: dict[str, dict[str, None]] = defaultdict(dict)
    shas: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        repo = row["repo"]
        licenses[repo][row["license"] or UNKNOWN] += 1
        if len(copyrights[repo]) < MAX_COPYRIGHTS:
            copyrights[repo].update(dict.fromkeys(row["copyright"] or ()))
        if row["license_sha"]:
            shas[repo].add(row["license_sha"])

    notices = Trees.open(collected).notices
    kept = set[str]()
    with (folder / "NOTICE.txt").open("w", encoding="utf-8", newline="\n") as file:
        file.write("This corpus holds source code of the works below; the code stays under their licences.\n")
        file.write("Texts are in the folder licenses; those of licences without one are at https://spdx.org/licenses.\n")
        for repo in sorted(licenses):
            lines = [f"{repo} {versions.get(repo) or ''}".rstrip()]
            lines += [f"  licence: {name} ({count} file{'s' * (count > 1)})" for name, count in sorted(licenses[repo].items())]
            lines += [f"  licence text: licenses/{sha}.txt" for sha in sorted(shas[repo])]
            lines += [f"  notice: licenses/{sha}.txt" for sha in notices.get(repo, ())]
            lines += [f"  {line}" for line in sorted(copyrights[repo])[:MAX_COPYRIGHTS]]
            file.write("\n" + "\n".join(lines) + "\n")
            kept |= shas[repo].union(notices.get(repo, ()))

    texts = collected / TEXTS if (collected / TEXTS).is_dir() else collected
    (folder / "licenses").mkdir()
    for sha in sorted(kept):
        # as bytes: they must be those that the name is the hash of
        (folder / "licenses" / f"{sha}.txt").write_bytes((texts / f"{sha}.txt").read_bytes())
    known = {"folders": {}, "notices": {repo: notices[repo] for repo in sorted(licenses) if repo in notices}}
    write_atomically(folder / "licenses" / TREES, json.dumps(known, ensure_ascii=False, indent=0, sort_keys=True))
