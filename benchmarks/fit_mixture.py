"""Fits the coefficients of the cache mixture to a model, on repositories that neither its training nor the evaluation has seen.

    python benchmarks/fit_mixture.py runs/mine/export/nano-q8_0.gguf --run runs/mine --to serving/mixture/weights.yaml

At places drawn over whole lines the true rest is read token by token. At each token the rows that match are taken down, and
what the model says. Then all coefficients of `serving.mixture.weights` are chosen together by what they are for, the
probability of the true token under the mixture, with a small penalty on their squares (L-BFGS, in torch); those of drafts by
the logistic loss of whether the project's first choice is right. What the first choice is jumps with the coefficients, so it
is held fast within a round, and chosen anew for the next. A fifth of the repositories is left out, to tell how well the
coefficients carry over. A language with enough tokens gets coefficients of its own if they do better there than those of
all languages together.

After another model has been trained, run this again: how far the project is to be believed depends on how good the model is.
benchmarks/cache_mixture.py measures on yet other repositories. The last line is one JSON object.
"""

import argparse
import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import yaml
from cache_mixture import Endings, File, Model, begin, draw, held_out, load_model, mixers, nats, steps
from torch import Tensor

from serving.mixture import Mixer
from serving.mixture.table import ORDER
from serving.mixture.weights import DRAFT, FILE, GATE, LEAST_LOGPROB, Candidates, Kernel, Source, Weights, WeightsFile

PENALTY = 0.0002
LEAST_TOKENS = 1_000
"""Of a language, for coefficients of its own."""
LEFT_OUT = 5
"""One repository in so many."""
ROUNDS = 20
LEAST_GAIN = 1e-5
"""Of a round, for another one."""


class Token(NamedTuple):
    """One place in the true text. right: of each row, whether its token is right. logprobs: the model's of each row's token."""

    repo: str
    language: str
    candidates: Candidates
    inside: bool
    right: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]
    model_nats: float
    model_top: float


def collect(model: Model, repos: dict[str, list[File]], places: int, seed: int) -> list[Token]:
    """The tokens at which the project has something to say."""
    endings = Endings(model)
    found = []
    made: dict[str, Mixer] = {}
    repo = ""
    for number, cursor in enumerate(draw(repos, places, seed, first=lambda length: 0)):
        if cursor.file.repo != repo:
            repo = cursor.file.repo
            for mixer in made.values():
                mixer.close()
            made = mixers(model, repos[repo])
        prompt_ids = model.begin(cursor.place)
        mixing = begin(made, cursor, repos[repo], prompt_ids)["workspace"]
        for ids, right in steps(model, endings, cursor.place.rest):
            candidates, inside = mixing.matches([*prompt_ids, *ids])
            if candidates is None:
                continue
            logprobs = model.logprobs(ids)
            found.append(
                Token(
                    repo,
                    cursor.file.language.lower(),
                    candidates,
                    inside,
                    np.isin(candidates.tokens, right),
                    np.maximum(logprobs[candidates.tokens], LEAST_LOGPROB),
                    nats(logprobs, right),
                    max(float(logprobs.max()), LEAST_LOGPROB),
                )
            )
        if number % 50 == 49:
            print(f"{number + 1} places, {len(found)} tokens", flush=True)
    for mixer in made.values():
        mixer.close()
    return found


class Batch:
    """Tokens as tensors: rows one after the other, numbered groups of those with the same token, and the groups' tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        def rows(column: int) -> Tensor:
            return torch.from_numpy(np.concatenate([token.candidates[column] for token in tokens]))

        counts = [len(token.right) for token in tokens]
        self.lengths, self.sources, self.distances = rows(1).long() - 1, rows(2).long(), rows(3).double()
        self.partial, self.begun = rows(4).double(), rows(5).double()
        of_row = np.repeat(np.arange(len(tokens)), counts)
        ids = np.concatenate([token.candidates.tokens for token in tokens]).astype(np.int64)
        _, first, groups = np.unique(of_row * (1 << 32) + ids, return_index=True, return_inverse=True)
        self.group = torch.from_numpy(groups)
        self.of_group = torch.from_numpy(of_row[first])
        self.of_row = torch.from_numpy(of_row)
        self.right = torch.from_numpy(np.concatenate([token.right for token in tokens])[first])
        self.logprobs = torch.from_numpy(np.concatenate([token.logprobs for token in tokens])[first]).double()
        self.longest = torch.tensor([int(token.candidates.lengths.max()) for token in tokens]).double() / ORDER
        self.inside = torch.tensor([token.inside for token in tokens]).double()
        self.any_begun = torch.tensor([bool(token.candidates.begun.any()) for token in tokens]).double()
        self.nats = torch.tensor([token.model_nats for token in tokens]).double()
        self.top = torch.tensor([token.model_top for token in tokens]).double()
        self.size = len(tokens)


class Coefficients(torch.nn.Module):
    """All that is fitted, begun at what is there."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()

        def parameter(values: Any) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))

        kernel = weights.kernel
        self.lengths = parameter(kernel.lengths)
        self.sources = parameter(kernel.sources[1:])
        self.others = parameter([kernel.distance, kernel.partial, kernel.begun, kernel.begun_character])
        self.gate = parameter([weights.gate[name] for name in GATE])
        self.draft = parameter([weights.draft[name] for name in DRAFT])

    def shares(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of each group in what its token's rows weigh together; the sum of these weights, and the open file's part of it."""
        distance, partial, begun, character = self.others
        sources = torch.cat([torch.zeros(1, dtype=torch.float64), self.sources])
        logs = self.lengths[batch.lengths] + sources[batch.sources] + distance * batch.distances + partial * batch.partial
        logs = logs + (batch.begun > 0) * (begun + character * batch.begun)
        weights = logs.exp()
        sums = torch.zeros(len(batch.of_group), dtype=torch.float64).index_add(0, batch.group, weights)
        total = torch.zeros(batch.size, dtype=torch.float64).index_add(0, batch.of_row, weights)
        here = torch.zeros(batch.size, dtype=torch.float64).index_add(0, batch.of_row, weights * (batch.sources == Source.OPEN))
        return sums / total[batch.of_group], total, here / total

    @torch.no_grad()
    def first(self, batch: Batch) -> Tensor:
        """The group of each token that has the largest share, (tokens,)."""
        shares, _, _ = self.shares(batch)
        top = torch.zeros(batch.size, dtype=torch.float64).scatter_reduce(0, batch.of_group, shares, "amax")
        is_top = shares >= top[batch.of_group]
        return torch.zeros(batch.size, dtype=torch.long).scatter_reduce(
            0, batch.of_group[is_top], torch.arange(len(shares))[is_top], "amax"
        )

    def forward(self, batch: Batch, first: Tensor) -> tuple[Tensor, Tensor]:
        """Nats under the mixture, and the draft's logit, (tokens,) each; first: the project's first choices."""
        shares, total, here = self.shares(batch)
        right = torch.zeros(batch.size, dtype=torch.float64).index_add(0, batch.of_group, shares * batch.right)
        ones = torch.ones(batch.size, dtype=torch.float64)
        known = [ones, batch.longest, total.log(), shares[first], here, batch.inside, batch.any_begun]
        logit = torch.stack([*known, batch.top, batch.logprobs[first]], 1) @ self.gate
        alone, cached = (
            -batch.nats - torch.nn.functional.softplus(logit),
            right.clamp(min=1e-12).log() + torch.nn.functional.logsigmoid(logit),
        )
        mixed = -torch.logaddexp(alone, cached)
        draft = torch.stack(known, 1).detach() @ self.draft
        return mixed, draft

    def loss(self, batch: Batch, first: Tensor) -> Tensor:
        """What is minimised."""
        mixed, draft = self(batch, first)
        drafts = torch.nn.functional.binary_cross_entropy_with_logits(draft, batch.right[first].double())
        squares = sum((parameter**2).sum() for parameter in self.parameters())
        return mixed.mean() + drafts + PENALTY * squares

    def weights(self) -> Weights:
        """As the file has them."""

        def rounded(values: Tensor) -> list[float]:
            return [round(float(value), 4) for value in values.detach()]

        distance, partial, begun, character = rounded(self.others)
        return Weights(
            kernel=Kernel(
                lengths=tuple(rounded(self.lengths)),
                sources=(0.0, *rounded(self.sources)),
                distance=distance,
                partial=partial,
                begun=begun,
                begun_character=character,
            ),
            gate=dict(zip(GATE, rounded(self.gate), strict=True)),
            draft=dict(zip(DRAFT, rounded(self.draft), strict=True)),
        )


def fitted(tokens: list[Token], start: Weights) -> Coefficients:
    """The coefficients that suit the tokens best."""
    coefficients, batch = Coefficients(start), Batch(tokens)
    least = math.inf
    for _ in range(ROUNDS):
        first = coefficients.first(batch)
        loss = coefficients.loss(batch, first).item()
        if loss > least - LEAST_GAIN:
            break
        least, best = loss, copy.deepcopy(coefficients)
        descend(coefficients, batch, first)
    return best


def descend(coefficients: Coefficients, batch: Batch, first: Tensor) -> None:
    """Changes the coefficients to those of the least loss with these first choices."""
    optimizer = torch.optim.LBFGS(coefficients.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = coefficients.loss(batch, first)
        loss.backward()
        return loss.item()

    optimizer.step(closure)


def mixed_bits(coefficients: Coefficients, tokens: list[Token]) -> float:
    """Bits of each token under the mixture, in the mean."""
    batch = Batch(tokens)
    with torch.no_grad():
        return float(coefficients(batch, coefficients.first(batch))[0].mean()) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf, or 5-gram")
    parser.add_argument("--run", type=Path, required=True, help="with corpus and, for the 5-gram, tokenizer and tokens")
    parser.add_argument("--places", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, required=True, help="the file to write; what it holds is where the fit begins")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokens = collect(
        load_model(arguments.model, arguments.run), held_out(arguments.run, fitting=True), arguments.places, arguments.seed
    )
    repos = sorted({token.repo for token in tokens})
    left_out = set(repos[::LEFT_OUT])
    seen = [token for token in tokens if token.repo not in left_out]
    unseen = [token for token in tokens if token.repo in left_out]
    start = WeightsFile.read(arguments.to if arguments.to.exists() else FILE).default
    default = fitted(seen, start)
    languages = {}
    for language in sorted({token.language for token in seen}):
        own = [token for token in seen if token.language == language]
        test = [token for token in unseen if token.language == language]
        if LEAST_TOKENS <= len(own) < len(seen) and len(test) >= LEAST_TOKENS // LEFT_OUT:
            candidate = fitted(own, default.weights())
            if mixed_bits(candidate, test) < mixed_bits(default, test):
                languages[language] = candidate.weights()
    figures = {
        "model": Path(arguments.model).name,
        "tokens": len(tokens),
        "repositories": len(repos),
        "left_out": len(left_out),
        "model_bits": round(float(np.mean([token.model_nats for token in unseen])) / math.log(2), 4),
        "start_bits": round(mixed_bits(Coefficients(start), unseen), 4),
        "mixed_bits": round(mixed_bits(default, unseen), 4),
    }
    content = WeightsFile(fitted=figures, default=default.weights(), languages=languages)
    text = "# Written by benchmarks/fit_mixture.py. Bits are those of a token of the repositories that were left out.\n"
    arguments.to.write_text(
        text + yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=128),
        encoding="utf-8",
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
