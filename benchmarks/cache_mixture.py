"""What the cache mixture gains at ends of lines of unseen repositories: model alone, + file, + neighbours, + workspace.

    python benchmarks/cache_mixture.py runs/mine/export/nano-q8_0.gguf --run runs/mine
    python benchmarks/cache_mixture.py 5-gram --run runs/mine         a token 5-gram of the training split in the model's place

Of the corpus's validation split half of the repositories are used; the coefficients are fitted on the other half
(benchmarks/fit_mixture.py). Places are drawn alike over repositories, in the last third of a line. Lines are written
greedily. All files of the repository but the one with the cursor are the workspace, those of the same folder its neighbours.

For each setting: exact match and edit similarity; exact match of the 30 % of places with the highest mean log-probability; bits
per token of the true rest of the line. With the workspace also: microseconds of this thread's CPU time for each written token,
drafts and mixing, and for a keystroke (mean, median and 95th percentile), bytes a token, and how many drafted tokens are what
greedy writing goes on with. The last line is one JSON object with all of it.
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from reader import Reader

from codelm.corpus.read import read_rows
from codelm.corpus.tokens import open_shard
from codelm.evaluation.measures import edit_similarity, is_exact, share
from codelm.evaluation.ngram import ORDER as NGRAM_ORDER
from codelm.evaluation.ngram import NgramModel
from codelm.evaluation.places import Place, lines_of
from codelm.tokenizer import FILE, Tokenizer
from serving import prompt
from serving.llamacpp import LlamaCpp
from serving.mixture import Kind, Mixer, Mixing
from serving.mixture.weights import FILE as WEIGHTS
from serving.request import CompletionRequest

Logprobs = npt.NDArray[np.float32]

NEW_TOKENS = 32
SHORTEST_REST = 3
SHORTEST_LINE = 12
DRAFT = 8
CONFIDENT = 0.3
NGRAM_TOKENS = 4_000_000
SETTINGS = ("model", "file", "neighbours", "workspace")


class File(NamedTuple):
    """A held-out file."""

    repo: str
    path: str
    language: str
    text: str


class Cursor(NamedTuple):
    """A place in a held-out file."""

    file: File
    place: Place


class Model(Protocol):
    """What writes: probabilities of the next token at a place."""

    vocab_size: int
    end: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""

    def piece(self, token: int) -> bytes:
        """Bytes of an id."""

    def begin(self, place: Place) -> list[int]:
        """Goes to a place; the ids of its prompt."""

    def logprobs(self, written: list[int]) -> Logprobs:
        """Of the next token after the prompt and what has been written, (vocab,)."""


class Gguf:
    """A GGUF in llama.cpp, with the served prompt."""

    def __init__(self, path: Path) -> None:
        self.model = LlamaCpp(path, threads=1, sequences=1)
        self._reader = Reader(self.model)
        self.vocab_size, self.end = self.model.vocab_size, self.model.fim.endoftext
        self.encode, self.piece = self.model.encode, self.model.piece
        self.prompt: list[int] = []

    def begin(self, place: Place) -> list[int]:
        model = self.model
        budget = model.context_length - NEW_TOKENS
        self.prompt = prompt.build(model.fim, model.metadata.fim_order, model.encode, place.prefix, place.suffix, budget)
        return self.prompt

    def logprobs(self, written: list[int]) -> Logprobs:
        return log_softmax(self._reader.scores([*self.prompt, *written])[0])


class NgramLanguageModel:
    """A token n-gram of the training split. It knows no suffix; where the cursor cuts a token, those that begin so count."""

    def __init__(self, run: Path) -> None:
        self.tokenizer = Tokenizer(run / "tokenizer" / FILE)
        self.vocab_size, self.end = self.tokenizer.vocab_size, self.tokenizer.fim.endoftext
        self.encode, self.piece = self.tokenizer.encode, self.tokenizer.token_bytes.__getitem__
        shard = open_shard(run / "tokens", "train")
        # documents from all over the split
        order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(shard))
        taken: list[npt.NDArray[Any]] = []
        while sum(map(len, taken)) < NGRAM_TOKENS and len(taken) < 2 * len(shard):
            document = order[len(taken) // 2]
            taken += [shard.ids[shard.offsets[document] : shard.offsets[document + 1]], np.array([self.end], shard.ids.dtype)]
        self.model = NgramModel(np.concatenate(taken), self.vocab_size)
        self.line = ""

    def begin(self, place: Place) -> list[int]:
        start = place.prefix.rfind("\n", 0, max(0, len(place.prefix) - 200)) + 1
        self.line = place.prefix[start:]
        return self.encode(self.line)

    def logprobs(self, written: list[int]) -> Logprobs:
        text = self.line.encode() + b"".join(map(self.piece, written))
        ids = self.encode(text.decode(errors="ignore"))
        probability = self.after(ids)
        if not written:
            cut = self.piece(ids[-1])
            before = self.after(ids[:-1])
            probability = probability * before[ids[-1]]
            for token in self.beginning(cut):
                rest = self.piece(token)[len(cut) :].decode(errors="ignore")
                probability[self.encode(rest or "?")[0]] += before[token]
        return np.log(probability / probability.sum()).astype(np.float32)

    def after(self, ids: list[int]) -> npt.NDArray[np.float64]:
        return self.model.distribution(ids[-(NGRAM_ORDER - 1) :])

    def beginning(self, cut: bytes) -> list[int]:
        """The tokens that begin with the bytes and are longer."""
        return [i for i, piece in enumerate(self.tokenizer.token_bytes) if len(piece) > len(cut) and piece.startswith(cut)]


class Written(NamedTuple):
    """A line, the mean log-probability of its tokens, and what became of drafts."""

    text: str
    confidence: float
    drafted: int
    accepted: int
    steps: int


def load_model(name: str, run: Path) -> Model:
    """By the path of a GGUF, or the n-gram."""
    return NgramLanguageModel(run) if name == "5-gram" else Gguf(Path(name))


def log_softmax(logits: npt.NDArray[np.float32]) -> Logprobs:
    """ln p of scores, (vocab,)."""
    shifted = logits - logits.max()
    return shifted - np.float32(math.log(np.exp(shifted.astype(np.float64)).sum()))


def held_out(run: Path, fitting: bool) -> dict[str, list[File]]:
    """The validation split's files by repository, of half of these: those to fit on, or those to evaluate on."""
    found: dict[str, list[File]] = defaultdict(list)
    for row in read_rows(run / "corpus", "valid", ["repo", "path", "language", "content"]):
        if (hashlib.sha256(row["repo"].encode()).digest()[0] % 2 == 0) == fitting:
            found[row["repo"]].append(File(row["repo"], row["path"], row["language"], row["content"]))
    return dict(found)


def draw(
    repos: dict[str, list[File]], count: int, seed: int, first: Callable[[int], int] = lambda length: length * 2 // 3
) -> list[Cursor]:
    """Cursors in lines drawn alike over the repositories with several files, and alike over the lines of each.

    first: where the cursor may stand at the earliest, in a line of that many characters without its indentation. SHORTEST_REST
    of them are left at least.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    cursors: list[Cursor] = []
    lines = {
        repo: [
            (file, begin + len(line) - len(line.lstrip()), begin + len(line.rstrip()))
            for file in files
            for begin, line in lines_of(file.text)
            if len(line.strip()) >= SHORTEST_LINE
        ]
        for repo, files in sorted(repos.items())
        if len(files) > 1
    }
    lines = {repo: of_repo for repo, of_repo in lines.items() if len(of_repo) >= 100}
    for index in range(count):
        of_repo = lines[sorted(lines)[index % len(lines)]]
        file, begin, end = of_repo[int(random.integers(len(of_repo)))]
        at = int(random.integers(begin + first(end - begin), end - SHORTEST_REST + 1))
        cursors.append(Cursor(file, Place(file.text[:at], file.text[at:end], file.text[end:])))
    return sorted(cursors, key=lambda cursor: (cursor.file.repo, cursor.file.path))


def mixers(model: Model, repo: list[File], weights: Path = WEIGHTS) -> dict[str, Mixer]:
    """A mixer for each setting but the first; that of the workspace knows the repository."""
    made = {name: Mixer(model.encode, model.piece, model.vocab_size, weights=weights) for name in SETTINGS[1:]}
    for file in repo:
        made["workspace"].update(file.path, file.text)
    return made


def neighbours(file: File, repo: list[File]) -> Iterator[File]:
    """The files of the same folder."""
    return (other for other in repo if other is not file and Path(other.path).parent == Path(file.path).parent)


def begin(made: dict[str, Mixer], cursor: Cursor, repo: list[File], prompt_ids: list[int]) -> dict[str, Mixing]:
    """The mixing of each setting at a place."""
    file, place = cursor
    near = list(neighbours(file, repo))
    for other in near:
        made["neighbours"].update(other.path, other.text, Kind.NEIGHBOUR)
        made["workspace"].update(other.path, other.text, Kind.NEIGHBOUR)
    request = CompletionRequest(
        prefix=place.prefix,
        suffix=place.suffix,
        document=file.path,
        path=file.path,
        language=file.language.lower(),
    )
    mixings = {}
    for name, mixer in made.items():
        mixer.wait()
        mixings[name] = mixer.begin(request, prompt_ids)
    for other in near:
        made["neighbours"].remove(other.path)
        made["workspace"].update(other.path, other.text)
    return mixings


def write(model: Model, mixing: Mixing | None, prompt_ids: list[int], clock: list[float]) -> Written:
    """A line, greedily."""
    written: list[int] = []
    text, logprobs = b"", []
    drafted = accepted = steps = 0
    draft: list[int] = []
    while len(written) < NEW_TOKENS:
        probabilities = model.logprobs(written)
        if mixing:
            context = [*prompt_ids, *written]
            started = time.thread_time()
            if not draft:
                draft = mixing.draft(context, DRAFT)
                drafted, steps = drafted + len(draft), steps + 1
            probabilities = mixing.mix(probabilities, context)
            clock.append(time.thread_time() - started)
        token = int(probabilities.argmax())
        logprobs.append(float(probabilities[token]))
        if draft:
            hit = draft[0] == token
            accepted += hit
            draft = draft[1:] if hit else []
        if token == model.end:
            break
        written.append(token)
        text += model.piece(token)
        if b"\n" in text:
            break
    line = text.decode(errors="replace").split("\n", 1)[0]
    return Written(line, statistics.fmean(logprobs), drafted, accepted, steps)


class Endings:
    """Which tokens end a line, by what they write before."""

    def __init__(self, model: Model) -> None:
        self._by_head: dict[bytes, list[int]] = defaultdict(list)
        for token in range(model.vocab_size):
            head, newline, _ = model.piece(token).partition(b"\n")
            if newline:
                self._by_head[head.rstrip()].append(token)
        self._by_head[b""].append(model.end)

    def after(self, rest: bytes) -> list[int]:
        """The tokens that write just this and end the line."""
        return self._by_head.get(rest, [])


def steps(model: Model, endings: Endings, rest: str) -> Iterator[tuple[list[int], list[int]]]:
    """What has been written, and the tokens that are right next, for each token of the rest of a line and its end."""
    ids = model.encode(rest)
    left = rest.encode()
    for index in range(len(ids) + 1):
        right = set(endings.after(left))
        if index < len(ids):
            right.add(ids[index])
            left = left[len(model.piece(ids[index])) :]
        yield ids[:index], sorted(right)


def nats(logprobs: Logprobs, right: Sequence[int]) -> float:
    """−ln of the probability of any of the tokens."""
    return -float(np.logaddexp.reduce(logprobs[list(right)].astype(np.float64)))


def evaluate(model: Model, repos: dict[str, list[File]], cursors: list[Cursor], weights: Path) -> dict[str, Any]:
    """All figures."""
    written: dict[str, list[Written]] = {name: [] for name in SETTINGS}
    bits: dict[str, list[float]] = {name: [] for name in SETTINGS}
    clock: list[float] = []
    keystrokes: list[float] = []
    memory: list[float] = []
    endings = Endings(model)
    made: dict[str, Mixer] = {}
    repo = None
    for cursor in cursors:
        if cursor.file.repo != repo:
            repo = cursor.file.repo
            for mixer in made.values():
                mixer.close()
            made = mixers(model, repos[repo], weights)
            made["workspace"].wait()
            memory.append(made["workspace"].nbytes / max(1, made["workspace"].tokens))
        prompt_ids = model.begin(cursor.place)
        mixings = begin(made, cursor, repos[repo], prompt_ids)
        keystrokes += typing(made["workspace"], cursor)
        for name in SETTINGS:
            mixing = mixings.get(name)
            written[name].append(write(model, mixing, prompt_ids, clock if name == "workspace" else []))
        for ids, right in steps(model, endings, cursor.place.rest):
            alone = model.logprobs(ids)
            for name in SETTINGS:
                mixed = mixings[name].mix(alone, [*prompt_ids, *ids]) if name in mixings else alone
                bits[name].append(nats(mixed, right) / math.log(2))
    for mixer in made.values():
        mixer.close()
    places = [cursor.place for cursor in cursors]
    figures: dict[str, Any] = {name: row(written[name], places, bits[name]) for name in SETTINGS}
    alone = figures["model"]["exact_match"]
    full = written["workspace"]
    return figures | {
        "gain": round(figures["workspace"]["exact_match"] / alone, 2) if alone else None,
        "token_us": microseconds(clock),
        "keystroke_us": microseconds(keystrokes),
        "bytes_per_token": round(statistics.fmean(memory), 1),
        "drafted": sum(one.drafted for one in full),
        "draft_acceptance": round(sum(one.accepted for one in full) / max(1, sum(one.drafted for one in full)), 3),
        "tokens_per_step": round(1 + sum(one.accepted for one in full) / max(1, sum(one.steps for one in full)), 2),
    }


def typing(mixer: Mixer, cursor: Cursor) -> list[float]:
    """Seconds of CPU time to take in each of a few characters that are typed at a place."""
    seconds = []
    for count in range(1, SHORTEST_REST + 1):
        prefix = cursor.place.prefix + cursor.place.rest[:count]
        request = CompletionRequest(prefix=prefix, suffix=cursor.place.suffix, document=cursor.file.path)
        started = time.thread_time()
        mixer.begin(request, [0])
        seconds.append(time.thread_time() - started)
    return seconds


def row(written: list[Written], places: list[Place], bits: list[float]) -> dict[str, Any]:
    """The figures of one setting."""
    hits = [is_exact(one.text, place) for one, place in zip(written, places, strict=True)]
    by_confidence = sorted(range(len(hits)), key=lambda index: -written[index].confidence)
    confident = [hits[index] for index in by_confidence[: math.ceil(CONFIDENT * len(hits))]]
    exact = share(hits)
    return {
        "exact_match": round(exact.value, 4),
        "interval": [round(exact.low, 4), round(exact.high, 4)],
        "edit_similarity": round(
            statistics.fmean(edit_similarity(one.text, place) for one, place in zip(written, places, strict=True)), 4
        ),
        "precision_of_confident": round(statistics.fmean(confident), 4),
        "bits_per_token": round(statistics.fmean(bits), 4),
    }


def microseconds(seconds: list[float]) -> dict[str, float]:
    """The mean, the median and the 95th percentile."""
    mean, p50, p95 = (round(float(value) * 1e6) for value in (np.mean(seconds), *np.quantile(seconds, [0.5, 0.95])))
    return {"mean": mean, "p50": p50, "p95": p95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf, or 5-gram")
    parser.add_argument("--run", type=Path, required=True, help="with corpus and, for the 5-gram, tokenizer and tokens")
    parser.add_argument("--places", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    model = load_model(arguments.model, arguments.run)
    repos = held_out(arguments.run, fitting=False)
    cursors = draw(repos, arguments.places, arguments.seed)
    figures = evaluate(model, repos, cursors, arguments.weights)
    for name in SETTINGS:
        print(f"{name:11}", figures[name], flush=True)
    drawn = len({cursor.file.repo for cursor in cursors})
    print(json.dumps({"model": arguments.model, "places": len(cursors), "repositories": drawn, **figures}))


if __name__ == "__main__":
    main()
