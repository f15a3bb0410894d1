"""What other files of a repository are worth to a model: bits of the last third of a line, with each source of chunks alone,
with all of them, and without.

    python benchmarks/repo_context.py MODEL.gguf --corpus RUN/corpus [--places 200]
    python benchmarks/repo_context.py MODEL.gguf --packages rich httpx [--places 200]

The repositories are those of a corpus's validation split, which the model has not seen, or installed packages, of which you
say so. They are written into a folder and indexed as `codelm serve` does; the prompts are those that it builds. Nobody edits
there, so what was opened and edited is drawn: OPENED other files, half of them from the open file's folder, and lines of two
of them. It is no better than chance and says little of what a real session gives; the other sources are measured as they are.

A line's end is read token by token: its bits, and whether each of its tokens is the likeliest (what is written at temperature
0). Each place is measured in all variants, so their differences are told with the standard error of paired differences. A
model that was not trained on repositories is not helped by them: `repo_context` says which it is. The last line of the output
is one JSON object with all figures.
"""

import argparse
import importlib.metadata
import json
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reader import Reader

from codelm import fim
from codelm.corpus.languages import language_of_name
from serving import prompt
from serving.llamacpp import LlamaCpp
from serving.request import CompletionRequest, Recent, RecentKind
from serving.workspace.relevance import ALL, Source
from serving.workspace.workspace import Workspace

NEW_TOKENS = 48
OPENED = 4
EDITED_LINES = 12
SHORTEST_LINE = 12
MIN_FILES = 4
"""Of a repository: in a smaller one there is nothing to find."""
NONE, NAMES = "none", "names"
VARIANTS: dict[str, frozenset[Source] | None] = {
    NONE: None,
    NAMES: frozenset(),
    **{source.value: frozenset((source,)) for source in Source},
    "all": ALL,
}


class Place(NamedTuple):
    """A cursor in a file of a repository, and what follows up to the end of the line."""

    path: str
    prefix: str
    rest: str
    suffix: str


class Measured(NamedTuple):
    """Of one place in one variant."""

    bits: float
    exact: bool
    chunks: int
    tokens: int
    """of the prompt, in front of the open file"""


def of_corpus(corpus: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and files of each repository of the validation split."""
    from codelm.corpus.read import read_rows

    rows = sorted(read_rows(corpus, "valid", ["repo", "path", "content"]), key=lambda row: (row["repo"], row["path"]))
    for repo, files in groupby(rows, key=lambda row: row["repo"]):
        yield repo, {row["path"]: row["content"] for row in files}


def of_packages(names: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and source files of installed packages."""
    for name in names:
        found = importlib.metadata.files(name) or []
        kept = [path for path in found if ".." not in path.parts and language_of_name(str(path))]
        yield name, {str(path): path.locate().read_bytes().decode("utf-8", "replace") for path in kept}  # type: ignore[attr-defined]


def places(files: dict[str, str], count: int, generator: random.Random) -> list[Place]:
    """Cursors two thirds into lines, drawn alike over all of them."""
    lines = [
        (path, begin + len(line) - len(line.lstrip()), begin + len(line.rstrip()))
        for path, text in sorted(files.items())
        for begin, line in starts(text)
        if len(line.strip()) >= SHORTEST_LINE
    ]
    found = []
    for path, begin, end in generator.sample(lines, min(count, len(lines))):
        cursor = begin + math.ceil((end - begin) * 2 / 3)
        text = files[path]
        found.append(Place(path, text[:cursor], text[cursor:end], text[end:]))
    return found


def starts(text: str) -> Iterator[tuple[int, str]]:
    """Where each line begins, and the line."""
    begin = 0
    for line in text.split("\n"):
        yield begin, line
        begin += len(line) + 1


def recent(root: Path, files: dict[str, str], path: str, generator: random.Random) -> tuple[Recent, ...]:
    """What somebody might have opened and edited before."""
    others = sorted(files.keys() - {path})
    near = [other for other in others if Path(other).parent == Path(path).parent]
    drawn = generator.sample(near, min(OPENED // 2, len(near)))
    rest = [other for other in others if other not in drawn]
    drawn += generator.sample(rest, min(OPENED - len(drawn), len(rest)))
    opened = [Recent(path=str(root / other), kind=RecentKind.OPENED) for other in drawn]
    edited = []
    for other in drawn[:2]:
        first = generator.randrange(files[other].count("\n") + 1)
        edited.append(
            Recent(path=str(root / other), kind=RecentKind.EDITED, first_line=first, last_line=first + EDITED_LINES - 1)
        )
    return (*opened, *edited)


def measured(reader: Reader, ids: list[int], rest: list[int]) -> tuple[float, bool]:
    """Bits of what follows a prompt, and whether each token is the likeliest."""
    bits, exact = 0.0, True
    for token, row in zip(rest, reader.scores([*ids, *rest[:-1]], len(rest)), strict=True):
        scores = row.astype(np.float64)
        bits -= float(scores[token] - scores.max() - math.log(np.exp(scores - scores.max()).sum())) / math.log(2)
        exact &= int(scores.argmax()) == token
    return bits, exact


def measure(reader: Reader, name: str, files: dict[str, str], count: int, seed: int) -> Iterator[dict[str, Measured]]:
    """All variants at each place of a repository."""
    generator = random.Random(f"{seed} {name}")
    model = reader.model
    encode = lru_cache(maxsize=4096)(model.encode)
    budget = model.context_length - NEW_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / Path(name).name
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8", newline="")
        workspace = Workspace(root)
        workspace.refresh()
        for place in places(files, count, generator):
            request = CompletionRequest(
                prefix=place.prefix,
                suffix=place.suffix,
                path=str(root / place.path),
                recent=recent(root, files, place.path, generator),
            )
            rest = model.encode(place.rest)[:NEW_TOKENS]
            found = {}
            for variant, sources in VARIANTS.items():
                repository = None
                if sources is not None:
                    empty = prompt.Repository(name, (), place.path, fim.longest_name(model.context_length))
                    room = prompt.repository_budget(budget) - len(empty.ids(model.fim, encode))
                    chunks = workspace.relevant(request, room, encode, sources) if sources else []
                    repository = empty._replace(files=tuple((chunk.path, chunk.text) for chunk in chunks))
                ids = prompt.build(model.fim, model.metadata.fim_order, encode, place.prefix, place.suffix, budget, repository)
                shown = (len(repository.files), ids.index(model.fim.fim_prefix)) if repository else (0, 0)
                found[variant] = Measured(*measured(reader, ids, rest), *shown)
            yield found


def summary(all_places: list[dict[str, Measured]]) -> dict[str, dict[str, float]]:
    """The means of each variant, and what it saves of the bits without other files."""
    told = {}
    for variant in VARIANTS:
        rows = [place[variant] for place in all_places]
        saved = np.array([place[NONE].bits - place[variant].bits for place in all_places])
        told[variant] = {
            "bits": round(float(np.mean([row.bits for row in rows])), 3),
            "bits_saved": round(float(saved.mean()), 3),
            "standard_error": round(float(saved.std(ddof=1) / math.sqrt(len(saved))), 3) if len(saved) > 1 else 0.0,
            "exact_match": round(float(np.mean([row.exact for row in rows])), 4),
            "chunks": round(float(np.mean([row.chunks for row in rows])), 2),
            "tokens": round(float(np.mean([row.tokens for row in rows])), 1),
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path)
    source.add_argument("--packages", nargs="+")
    parser.add_argument("--places", type=int, default=200, help="in all repositories together")
    parser.add_argument("--repositories", type=int, default=20)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    given = of_corpus(arguments.corpus) if arguments.corpus else of_packages(arguments.packages)
    repositories = dict(islice(((name, files) for name, files in given if len(files) >= MIN_FILES), arguments.repositories))
    if not repositories:
        parser.error(f"no repository with {MIN_FILES} files")
    model = LlamaCpp(arguments.model, arguments.threads)
    reader = Reader(model)  # one for all, since it knows what the model's sequences hold
    each = max(1, round(arguments.places / len(repositories)))
    found: list[dict[str, Measured]] = []
    for name, files in repositories.items():
        found += measure(reader, name, files, each, arguments.seed)
        print(f"{name}: {len(files)} files, {len(found)} places so far", flush=True)
    facts = {
        "model": arguments.model.name,
        "repo_context": model.metadata.repo_context,
        "context_length": model.context_length,
        "repositories": len(repositories),
        "places": len(found),
        "variants": summary(found),
    }
    model.close()
    for variant, row in facts["variants"].items():
        print(f"{variant:12}", *(f"{key} {value:<8}" for key, value in row.items()))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
