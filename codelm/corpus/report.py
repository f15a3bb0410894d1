"""report.html: what a corpus holds, what it lacks and why, on one page that needs no network and no script."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codelm.config.corpus import CorpusConfig
from codelm.corpus.reasons import REASONS
from codelm.page import rendered
from codelm.stage import Manifest, write_atomically

REPORT = "report.html"
HERE = Path(__file__).parent / "data"
TOP = 15
"""Rows of a table; a last one sums up the rest."""
CLUSTERS = 10
SIZES = [1 << power for power in range(7, 21)]
"""Upper ends of the classes of file sizes: 128 bytes to 1 MiB."""
COPIES = ("duplicate", "near_duplicate")
UNREAD = {"listed", "language", "path"}
"""Steps that go by names, and read no more than a first line: they have no speed."""


class Bar(NamedTuple):
    """A row of a table with a bar in it."""

    name: str
    cells: list[str]
    share: float
    """length of the bar, 0 to 1"""
    offset: float = 0.0
    """where it begins, in the funnel"""
    other: float | None = None
    """length of a second, paler bar"""
    note: str = ""


class Column(NamedTuple):
    """Two bars of a histogram that stand side by side."""

    label: str
    kept: int
    dropped: int


def write_report(folder: Path) -> None:
    """Writes `report.html` into a finished corpus. Raises UserError if there is none."""
    manifest = Manifest.read(folder)
    write_atomically(folder / REPORT, rendered(HERE / "report.html.j2", content(folder, manifest)))


def content(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Everything that the page shows, as texts and shares."""
    counts = manifest.counts
    kept = read(folder / "snapshot", ["repo", "path", "size", "also_in", "redacted"])
    dropped = read(folder / "rejected", ["size", "reason", "detail", "license", "language"])
    kept_bytes = sum(one["bytes"] for one in counts["languages"].values())
    seen_bytes = kept_bytes + sum(counts["rejected_bytes"].values())
    return {
        "counted": counted,
        "manifest": manifest,
        "counts": counts,
        "tiles": [
            (f"{counts['files_kept']:,}", f"of {counted(counts['files_seen'], 'file')} kept"),
            (size(kept_bytes), f"of {size(seen_bytes)}"),
            (millions(sum(one["tokens"] for one in counts["languages"].values())), "words and marks"),
            (
                f"{len(counts['repos']):,}",
                "repository or package" if len(counts["repos"]) == 1 else "repositories and packages",
            ),
            (f"{len(counts['languages']):,}", noun(len(counts["languages"]), "language")),
            (f"{len(counts['licenses']):,}", noun(len(counts["licenses"]), "licence")),
        ],
        "funnel": funnel(counts, kept_bytes, seen_bytes),
        "languages": amounts(counts["languages"], by(dropped, "language")),
        "licenses": amounts(counts["licenses"]),
        "denied": amounts(by(dropped, "license", ("license", "license_unknown"))),
        "repos": amounts(counts["repos"]),
        "splits": amounts(counts["splits"]),
        "histogram": histogram(kept, dropped.filter(pc.not_equal(dropped["reason"], "language"))),
        **copies(kept, counts),
        "redactions": tally(counts["redactions"]),
        "redacted_files": pc.sum(pc.greater(pc.fill_null(pc.list_value_length(kept["redacted"]), 0), 0)).as_py() or 0,
        "contaminated": tally(Counter(dropped.filter(pc.equal(dropped["reason"], "contaminated"))["detail"].to_pylist())),
        "language_weights": weights(counts["mixture"]["languages"], of_all(counts["languages"])),
        "source_weights": weights(counts["mixture"]["sources"], of_sources(counts)),
        "steps": steps(counts["steps"]),
        "settings": settings(manifest.config),
        "sources": [(source, manifest.inputs.get(source, "")) for source in manifest.config["sources"]],
        "versions": {
            "codelm": manifest.codelm_version,
            "commit": manifest.git_commit or "none",
            **manifest.libraries,
            **{name: value for name, value in manifest.inputs.items() if name not in manifest.config["sources"]},
        },
    }


def read(folder: Path, columns: list[str]) -> Any:
    """Some columns of all tables of a folder."""
    return pa.concat_tables([pq.read_table(path, columns=columns) for path in sorted(folder.glob("*.parquet"))])


def funnel(counts: Mapping[str, Any], kept: int, seen: int) -> list[Bar]:
    """What each reason took away from the source code that was seen, down to what is left.

    What is no code, or in a language that is not wanted, may be any amount, and comes off first without a bar.
    """
    files, sizes = counts["rejected"], counts["rejected_bytes"]
    code = seen - sizes.get("language", 0)
    bars = [Bar("seen", [f"{counts['files_seen']:,}", size(seen), ""], 0.0)]
    if "language" in files:
        bars.append(
            Bar("language", [f"− {files['language']:,}", f"− {size(sizes['language'])}", ""], 0.0, note=REASONS["language"])
        )
    bars.append(Bar("code", [f"{counts['files_seen'] - files.get('language', 0):,}", size(code), percent(1)], 1.0))
    left = code
    for reason, taken in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if reason != "language":
            left -= taken
            cells = [f"− {files[reason]:,}", f"− {size(taken)}", percent(taken / max(code, 1))]
            bars.append(Bar(reason, cells, taken / max(code, 1), left / max(code, 1), note=REASONS.get(reason, "")))
    share = kept / max(code, 1)
    return [*bars, Bar("kept", [f"{counts['files_kept']:,}", size(kept), percent(share)], share)]


def by(dropped: Any, column: str, reasons: tuple[str, ...] = ()) -> dict[str, dict[str, int]]:
    """Files and bytes of what was left out (for some reasons) by a column."""
    rows = dropped.filter(pc.is_in(dropped["reason"], pa.array(reasons))) if reasons else dropped
    sums = rows.group_by(column).aggregate([("size", "sum"), ("reason", "count")])
    names = sums[column].to_pylist()
    if not reasons and None in names:  # what never had a language is no language
        sums = sums.filter(pc.is_valid(sums[column]))
    found = {
        row[column] or "unknown": {"files": row["reason_count"], "bytes": row["size_sum"] or 0} for row in sums.to_pylist()
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def licenses(folder: Path) -> list[tuple[str, dict[str, int], dict[str, int]]]:
    """Licence → files and bytes that were kept, and that were left out because of it; the largest first.

    Raises UserError if there is no corpus.
    """
    kept: dict[str, dict[str, int]] = Manifest.read(folder).counts["licenses"]
    dropped = by(read(folder / "rejected", ["size", "reason", "license"]), "license", ("license", "license_unknown"))
    nothing = {"files": 0, "bytes": 0}
    rows = [(name, kept.get(name, nothing), dropped.get(name, nothing)) for name in dict.fromkeys([*kept, *dropped])]
    return sorted(rows, key=lambda row: (-row[1]["bytes"], -row[2]["bytes"], row[0]))


def amounts(kept: Mapping[str, Mapping[str, int]], dropped: Mapping[str, Mapping[str, int]] | None = None) -> list[Bar]:
    """Name → files, size, share, and what was dropped of it, the largest first."""
    total = sum(one["bytes"] for one in kept.values()) or 1
    most = max([one["bytes"] for one in kept.values()], default=0) or 1

    def bar(name: str, one: Mapping[str, int], note: str = "") -> Bar:
        lost = [size(dropped[name]["bytes"]) if name in dropped else "–"] if dropped is not None else []
        cells = [f"{one['files']:,}", size(one["bytes"]), percent(one["bytes"] / total), *lost]
        return Bar(name, cells, min(one["bytes"] / most, 1.0), note=note)

    ranked = sorted(kept.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    bars = [bar(name, one) for name, one in ranked[:TOP]]
    if rest := ranked[TOP:]:
        sums = {unit: sum(one[unit] for _, one in rest) for unit in ("files", "bytes")}
        bars.append(bar(f"{len(rest):,} more", sums, ", ".join(name for name, _ in rest[:TOP])))
    return bars


def tally(found: Mapping[str, int]) -> list[Bar]:
    """Name → count, the largest first."""
    most = max(found.values(), default=1)
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    bars = [Bar(name, [f"{count:,}"], count / most) for name, count in ranked[:TOP]]
    if rest := ranked[TOP:]:
        count = sum(count for _, count in rest)
        bars.append(
            Bar(f"{len(rest):,} more", [f"{count:,}"], min(count / most, 1.0), note=", ".join(n for n, _ in rest[:TOP]))
        )
    return bars


def histogram(kept: Any, dropped: Any) -> list[Column]:
    """Files by size, in classes that double."""

    def classes(column: Any) -> Counter[int]:
        sizes = column.drop_null().to_numpy()
        return Counter(min(max(math.ceil(math.log2(max(int(one), 1))), 7), 21) - 7 for one in sizes)

    ours, theirs = classes(kept["size"]), classes(dropped["size"])
    labels = [f"{end} B" if end < 1024 else f"{end >> 10} k" if end < 1 << 20 else "1 M" for end in SIZES] + ["more"]
    return [Column(label, ours[i], theirs[i]) for i, label in enumerate(labels)]


def copies(kept: Any, counts: Mapping[str, Any]) -> dict[str, Any]:
    """How many copies were dropped, and the texts that have the most."""
    lengths = pc.fill_null(pc.list_value_length(kept["also_in"]), 0)
    order = pc.sort_indices(pa.table({"n": lengths}), sort_keys=[("n", "descending")])[:CLUSTERS]
    clusters = []
    for row in kept.take(order).to_pylist():
        if row["also_in"]:
            kinds = Counter(copy["kind"] for copy in row["also_in"])
            example = row["also_in"][0]
            clusters.append(
                (f"{row['repo']}/{row['path']}", kinds["exact"], kinds["near"], f"{example['repo']}/{example['path']}")
            )
    return {
        "clusters": clusters,
        "with_copies": pc.sum(pc.greater(lengths, 0)).as_py() or 0,
        "copies": [
            (
                counted(counts["rejected"].get(reason, 0), reason.replace("_", "-")),
                size(counts["rejected_bytes"].get(reason, 0)),
            )
            for reason in COPIES
        ],
    }


def weights(found: Mapping[str, float], natural: Mapping[str, float]) -> list[Bar]:
    """Name → share of the bytes, and the weight to draw it by."""
    most = max([*found.values(), *natural.values()], default=1) or 1
    return [
        Bar(name, [percent(natural.get(name, 0.0)), percent(weight)], weight / most, other=natural.get(name, 0.0) / most)
        for name, weight in list(found.items())[:TOP]
    ]


def of_all(counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Name → share of the bytes."""
    total = sum(one["bytes"] for one in counts.values()) or 1
    return {name: one["bytes"] / total for name, one in counts.items()}


def of_sources(counts: Mapping[str, Any]) -> dict[str, float]:
    """Source → share of the bytes."""
    found = Counter[str]()
    for repo, one in counts["repos"].items():
        found[counts["mixture"]["source_of"].get(repo, "unknown")] += one["bytes"]
    total = found.total() or 1
    return {name: value / total for name, value in found.items()}


def steps(found: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """Step → files, seconds of work and speed."""
    longest = max((one["seconds"] for one in found.values()), default=0) or 1
    bars = []
    for name, one in found.items():
        speed = one["bytes"] / 1e6 / one["seconds"] if one["seconds"] and name not in UNREAD else None
        cells = [f"{one.get('files', 0):,.0f}", size(one["bytes"]), f"{one['seconds']:.2f} s"]
        bars.append(Bar(name, [*cells, f"{speed:,.0f} MB/s" if speed else "–"], one["seconds"] / longest))
    return bars


def settings(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(dotted name, value, whether it is not the default)."""
    default = CorpusConfig().identity()

    def rows(values: Mapping[str, Any], usual: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str, bool]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from rows(value, usual.get(name, {}), f"{prefix}{name}.")
            else:
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                yield prefix + name, text or "none", value != usual.get(name)

    return [row for row in rows(config, default, "") if row[0] != "sources"]


def noun(count: int, name: str) -> str:
    """A noun that stands after a number."""
    return name if count == 1 else f"{name}s"


def counted(count: int, name: str) -> str:
    """A number and its noun."""
    return f"{count:,} {noun(count, name)}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} B"


def millions(count: int) -> str:
    """A large number for people."""
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def percent(share: float) -> str:
    """A share for people."""
    return "100 %" if share > 0.9995 else f"{share:.1%}".replace("%", " %") if share >= 0.0005 or not share else "< 0.1 %"
