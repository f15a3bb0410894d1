"""NOTICE.txt and licenses/: whose code is in a corpus, and under which terms."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codelm.corpus.sources import Source

UNKNOWN = "unknown"


def write_notice(folder: Path, sources: list[Source], rows: Iterable[Mapping[str, Any]], texts: Mapping[str, str]) -> None:
    """Writes NOTICE.txt and the licence texts that its rows refer to.

    rows: `repo`, `license`, `license_sha`, `copyright` of every kept file. texts: SHA-256 → licence text.
    """
    licenses: dict[str, Counter[str]] = defaultdict(Counter)
    copyrights: dict[str, set[str]] = defaultdict(set)
    shas: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        licenses[row["repo"]][row["license"] or UNKNOWN] += 1
        copyrights[row["repo"]].update(row["copyright"] or ())
        if row["license_sha"]:
            shas[row["repo"]].add(row["license_sha"])

    lines = ["This corpus holds source code of the works below; the code stays under their licences.", ""]
    for source in sources:
        if source.repo not in licenses:
            continue
        lines += [f"{source.repo} {source.version or ''}".rstrip()]
        lines += [f"  licence: {name} ({count} files)" for name, count in sorted(licenses[source.repo].items())]
        lines += [f"  licence text: licenses/{sha}.txt" for sha in sorted(shas[source.repo])]
        lines += [f"  {line}" for line in sorted(copyrights[source.repo])]
        lines += [""]
    (folder / "NOTICE.txt").write_text("\n".join(lines), encoding="utf-8")

    (folder / "licenses").mkdir()
    for sha in set().union(*shas.values()):
        # newline="": the bytes must be those that the name is the hash of
        (folder / "licenses" / f"{sha}.txt").write_text(texts[sha], encoding="utf-8", newline="")
