"""What served completions are worth on repositories that no training has seen, with each aid of the engine on and off.

    python benchmarks/serving_quality.py run/export/70m-q8_0.gguf --run run
    python benchmarks/serving_quality.py MODEL.gguf --run run --variants plain files --plot shown.png

The files are the validation split of the run's corpus. At every place each variant is asked through `codelm serve`, in the
native protocol: ends of lines, whole lines, and blocks: a line and what follows it with more indentation. A variant is a set
of options, in VARIANTS: of the request, or of the server. A block counts if it is exactly what stands there.

plain           as `codelm serve` is, with the open file alone
files           NEIGHBOURS files of the repository come with the request, those of the same folder first
workspace       the repository lies in a folder that the editor has open, and has been read
no-mixture      the open file is not mixed into the model's probabilities
no-healing      a half-typed word is a token of its own
no-speculation  nothing is guessed ahead, neither by a draft model: what changes is the time
precision-P     of a calibrated model: ends of lines and lines are shown where a share of P should be right

The curve is over all lines and ends of lines that are shown, the surest first, by the `confidence` that comes with them: of so
many, how many are right. Keys saved are those of a user who accepts a suggestion that is what comes next, and types on else,
over the ends of lines: 1 − keys / characters, where accepting is a key.

Figures are [value, low, high] with 95 % confidence: Wilson's interval of shares, else a bootstrap over places. `gain` is what a
variant has more than the first one, place by place. The last line is a JSON object with all figures.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from typing_servers import Codelm, Query, Server, request

from codelm.corpus.rows import Row
from codelm.errors import UserError
from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.measures import Estimate, edit_similarity, is_exact, ratio, share
from codelm.evaluation.places import Place, draw_places, lines_of

MAX_BLOCK = 8
"""Lines."""
INDEXED_SECONDS = 0.5
"""Without work, after which a server has read a repository."""
NEIGHBOURS = 4
"""Other files of the repository that are sent along."""


@dataclass(frozen=True)
class Variant:
    """A way to ask. request: fields of the native protocol's `codelm`; serve: options of `codelm serve`. files: other files of
    the repository come along. workspace: they are on the disk.
    """

    request: dict[str, Any] = field(default_factory=dict)
    serve: tuple[str, ...] = ()
    files: bool = False
    workspace: bool = False

    @property
    def needs_gate(self) -> bool:
        """Whether it is nothing new for a model that is not calibrated."""
        return "precision" in self.request


VARIANTS = {
    "plain": Variant(),
    "files": Variant(files=True),
    "workspace": Variant(workspace=True),
    "no-mixture": Variant(serve=("--no-mixture",)),
    "no-healing": Variant(serve=("--no-healing",)),
    "no-speculation": Variant(serve=("--no-speculation",)),
    **{f"precision-{precision}": Variant({"precision": precision}) for precision in (0.5, 0.6, 0.7)},
}
"""The engine's aids, by name."""


class Case(NamedTuple):
    """A place, its kind, and the file it is in."""

    kind: str
    place: Place
    row: Row


class Point(NamedTuple):
    """Of the curve: the share of places where something is shown, the share of those that is right, the least confidence."""

    shown: float
    right: Estimate
    confidence: float


class Completion(NamedTuple):
    """What was answered. shown: whether the engine would show it."""

    text: str
    confidence: float
    shown: bool
    ms: float


def cases_of(rows: Sequence[Row], count: int, seed: int) -> list[Case]:
    """As many places of each kind, drawn alike over all lines."""
    texts = [row["content"] for row in rows]
    by_text = dict(zip(texts, rows, strict=True))
    found = [
        Case(kind, place, by_text["".join(place)])
        for kind, whole in (("line_end", False), ("line", True))
        for place in draw_places(texts, count, seed, whole)
    ]
    source = random.Random(f"blocks {seed}")
    blocks = [Case("block", place, row) for row in rows for place in blocks_of(row["content"])]
    return found + source.sample(blocks, min(count, len(blocks)))


def blocks_of(text: str) -> list[Place]:
    """Blocks of 2 to MAX_BLOCK lines: a line, from behind its indentation on, and what follows it with more indentation."""
    lines, places = lines_of(text), []
    for number, (begin, line) in enumerate(lines):
        last = number
        for other in range(number + 1, len(lines) if line.strip() else 0):
            inner = lines[other][1]
            if inner.strip():
                if depth(inner) <= depth(line):
                    break
                last = other
        if 2 <= last - number + 1 <= MAX_BLOCK:
            cursor = begin + len(line) - len(line.lstrip())
            end = lines[last][0] + len(lines[last][1].rstrip())
            places.append(Place(text[:cursor], text[cursor:end], text[end:]))
    return places


def depth(line: str) -> int:
    """Columns of its indentation."""
    columns = line.expandtabs(4)
    return len(columns) - len(columns.lstrip())


def neighbours(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Files of the same repository, those in the same folder first."""
    others = [other for other in rows if other["repo"] == row["repo"] and other["path"] != row["path"]]
    folder = row["path"].rpartition("/")[0]
    return sorted(others, key=lambda other: (other["path"].rpartition("/")[0] != folder, other["path"]))[:NEIGHBOURS]


def query_of(case: Case) -> Query:
    """What an editor would ask there: the file without what is to be written."""
    prefix, rest, suffix = case.place
    return Query(case.row["path"], prefix + suffix, len(prefix), lines=rest.count("\n") + 1)


class Asker:
    """Asks a server in a variant's way. folder: where repositories are written that it is to read."""

    def __init__(self, server: Server, variant: Variant, rows: Sequence[Row], folder: Path) -> None:
        self.server, self.variant, self.rows = server, variant, rows
        self._roots = {repo: folder / str(number) for number, repo in enumerate(dict.fromkeys(row["repo"] for row in rows))}
        self._opened: set[str] = set()

    async def ask(self, case: Case) -> Completion:
        """One answer. Raises ValueError if there is none."""
        row = case.row
        route, body = self.server.peer.question(query_of(case))
        body["textDocument"]["uri"] = self._uri(row)
        body["codelm"] |= self.variant.request
        if self.variant.files:
            others = neighbours(row, self.rows)
            body["codelm"]["files"] = [{"uri": self._uri(other), "text": other["content"]} for other in others]
        if self.variant.workspace:
            body["codelm"]["workspaceFolders"] = [{"uri": self._roots[row["repo"]].as_uri()}]
            await self._open(row["repo"], body)
        answer = json.loads(await self._post(route, body))
        details = answer["codelm"]
        text = answer["items"][0]["insertText"] if answer["items"] else ""
        return Completion(text, details["confidence"], details["shown"], details["timings"]["totalMs"])

    async def _open(self, repo: str, body: dict[str, Any]) -> None:
        """Writes a repository to the disk, and has the server read it."""
        if repo in self._opened:
            return
        self._opened.add(repo)
        for row in self.rows:
            if row["repo"] == repo:
                path = self._roots[repo] / row["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(row["content"], encoding="utf-8", newline="")
        await self._post("/v1/warm", body)
        await self.server.resting(INDEXED_SECONDS)

    def _uri(self, row: Row) -> str:
        return (self._roots[row["repo"]] / row["path"]).as_uri()

    async def _post(self, route: str, body: dict[str, Any]) -> bytes:
        status, content = await request(self.server.port, route, json.dumps(body).encode())
        if status not in (200, 202):
            raise ValueError(f"{body['textDocument']['uri']}: status {status}: {content.decode('utf-8', 'replace')[:200]}")
        return content


def scores(cases: Sequence[Case], answers: Sequence[Completion]) -> dict[str, Any]:
    """Figures by kind of place."""
    found: dict[str, Any] = {}
    for kind, pairs in by_kind(cases, answers).items():
        hits, similar = judged(pairs)
        shown = [hit for hit, (_, answer) in zip(hits, pairs, strict=True) if answer.shown]
        found[kind] = {
            "places": len(pairs),
            "exact_match": rounded(share(hits)),
            "edit_similarity": rounded(mean(similar)),
            "shown": rounded(share([answer.shown for _, answer in pairs])),
            "right_of_shown": rounded(share(shown)) if shown else None,
            "median_ms": round(statistics.median(answer.ms for _, answer in pairs), 2),
        }
    return found


def gains(cases: Sequence[Case], answers: Sequence[Completion], others: Sequence[Completion]) -> dict[str, Any]:
    """What the answers have more than others at the same places, by kind of place."""
    found: dict[str, Any] = {}
    for (kind, pairs), theirs in zip(by_kind(cases, answers).items(), by_kind(cases, others).values(), strict=True):
        (hits, similar), (other_hits, other_similar) = judged(pairs), judged(theirs)
        found[kind] = {
            "exact_match": rounded(mean([a - b for a, b in zip(hits, other_hits, strict=True)])),
            "edit_similarity": rounded(mean([a - b for a, b in zip(similar, other_similar, strict=True)])),
        }
    return found


Pairs = list[tuple[Case, Completion]]


def by_kind(cases: Sequence[Case], answers: Sequence[Completion]) -> dict[str, Pairs]:
    """Places and their answers."""
    found: dict[str, Pairs] = {}
    for case, answer in zip(cases, answers, strict=True):
        found.setdefault(case.kind, []).append((case, answer))
    return found


def judged(pairs: Pairs) -> tuple[list[bool], list[float]]:
    """Which are right, and how similar each is."""
    return (
        [is_exact(answer.text, case.place) for case, answer in pairs],
        [edit_similarity(answer.text, case.place) for case, answer in pairs],
    )


def mean(values: Sequence[float]) -> Estimate:
    """Over places."""
    return ratio(values, [1.0] * len(values))


def rounded(estimate: Estimate) -> list[float]:
    """Value, low, high."""
    return [round(value, 4) for value in estimate]


def curve(cases: Sequence[Case], answers: Sequence[Completion]) -> list[Point]:
    """Of lines and ends of lines, the surest first. Blocks are asked for by the user, and always shown."""
    lines = [pair for kind, pairs in by_kind(cases, answers).items() if kind != "block" for pair in pairs]
    shown = sorted((pair for pair in lines if pair[1].shown), key=lambda pair: -pair[1].confidence)
    hits, _ = judged(shown)
    return [
        Point(round(count / len(lines), 4), Estimate(*rounded(share(hits[:count]))), round(answer.confidence, 4))
        for count, (_, answer) in enumerate(shown, start=1)
    ]


async def keys_saved(asker: Asker, cases: Sequence[Case]) -> Estimate:
    """1 − keys / characters of a user who types the rests of lines and takes each suggestion that is what comes next."""
    saved, characters = [], []
    for case in cases:
        prefix, rest, suffix = case.place
        characters.append(len(rest))
        saved.append(len(rest))
        while rest:
            answer = await asker.ask(case._replace(place=Place(prefix, rest, suffix)))
            text = answer.text.rstrip()
            taken = len(text) if answer.shown and text and rest.startswith(text) else 1
            saved[-1] -= 1
            prefix, rest = prefix + rest[:taken], rest[taken:]
    return ratio(saved, characters)


def measure(
    model: Path, variant: Variant, cases: Sequence[Case], rows: Sequence[Row], typed: int
) -> tuple[list[Completion], Estimate]:
    """The answers of a variant, on a server of its own, and the keys that it saves at the first `typed` ends of lines."""
    ends = [case for case in cases if case.kind == "line_end"][:typed]

    async def asked(asker: Asker) -> tuple[list[Completion], Estimate]:
        return [await asker.ask(case) for case in cases], await keys_saved(asker, ends)

    with Server(Codelm(variant.serve), model) as server, tempfile.TemporaryDirectory() as folder:
        # a path that is nowhere: else a repository around it would be read
        place = Path(folder).resolve() if variant.workspace else Path("/nowhere")
        return asyncio.run(asked(Asker(server, variant, rows, place)))


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Precision against coverage: a line for each variant with its confidence, and a dot where all is shown."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        shown = [point.shown for point in result["curve"]]
        right, low, high = zip(*(point.right for point in result["curve"]), strict=True) if shown else ((), (), ())
        line = axes.plot(shown, right, label=name, marker="o", markevery=[-1] if shown else None)
        axes.fill_between(shown, low, high, color=line[0].get_color(), alpha=0.1, linewidth=0)
    axes.set(xlabel="share of places with a suggestion", ylabel="share of suggestions that are right", xlim=(0, 1), ylim=(0, 1))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def chosen(model: Path, names: Sequence[str] | None) -> dict[str, Variant]:
    """The variants by name; by default all that the model can. Raises UserError if it cannot one that is named."""
    calibrated = "codelm.gate" in gguf.GGUFReader(model).fields
    for name in names or ():
        if VARIANTS[name].needs_gate and not calibrated:
            raise UserError(f"{model} has no gate, which {name} is about", "run `codelm calibrate`, or leave that out")
    able = [name for name, variant in VARIANTS.items() if calibrated or not variant.needs_gate]
    return {name: VARIANTS[name] for name in names or able}


def main() -> None:
    """Draws places once and asks every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--run", type=Path, required=True, help="run folder whose validation split is asked for")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that the model can")
    parser.add_argument("--places", type=int, default=300, help="of each kind")
    parser.add_argument("--typed", type=int, default=100, help="ends of lines that the user types")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="where the curve goes, .png or .svg")
    arguments = parser.parse_args()
    try:
        variants = chosen(arguments.model, arguments.variants)
        rows = HeldOut(arguments.run / "corpus", arguments.run / "tokens").rows
        cases = cases_of(rows, arguments.places, arguments.seed)
        results: dict[str, dict[str, Any]] = {}
        first: list[Completion] = []
        for name, variant in variants.items():
            answers, saved = measure(arguments.model, variant, cases, rows, arguments.typed)
            result = {"scores": scores(cases, answers), "keys_saved": rounded(saved)}
            if results:
                result["gain"] = gains(cases, answers, first)
            first = first or answers
            print(json.dumps({"variant": name, **result}), flush=True)
            results[name] = result | {"curve": curve(cases, answers)}
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    if arguments.plot:
        plot(results, arguments.plot)
    step = max(1, len(cases) // 50)
    short = {name: result | {"curve": result["curve"][::-step][::-1]} for name, result in results.items()}
    print(
        json.dumps({"benchmark": "serving_quality", "model": arguments.model.name, "seed": arguments.seed, "variants": short})
    )


if __name__ == "__main__":
    main()
