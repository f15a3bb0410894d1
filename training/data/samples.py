"""Sample i: what the model reads and learns."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from codelm.config.data import DataConfig, FimConfig, MixtureConfig
from codelm.corpus.tokens import TokenShard
from codelm.tokenizer import Tokenizer
from training.data.examples import SHORTEST_FIM_PIECE, fim_piece
from training.data.mixture import Turns, known, sources
from training.data.packing import BestFitPacking, Packing, Piece, StreamPacking
from training.data.repositories import RepositoryPacking
from training.data.seeding import SAMPLE, generator
from training.loss import IGNORE


class Sample(NamedTuple):
    """What the model reads and learns; a batch of them has one more dimension in front. All (length,) int64."""

    ids: torch.Tensor
    labels: torch.Tensor
    """The next ids, IGNORE where none is learned."""
    kinds: torch.Tensor
    """What each label belongs to: an index in `loss.KINDS`."""
    positions: torch.Tensor
    """Counted from 0 at the beginning of each document, or of each repository laid out file by file; padding counts as one
    more. They tell the documents apart."""


class Reading:
    """What is read in a part of the training: packings that take turns."""

    def __init__(
        self,
        shard: TokenShard,
        tokenizer: Tokenizer,
        config: DataConfig,
        mixture: MixtureConfig,
        fim: FimConfig,
        length: int,
        seed: int,
        first: int,
    ) -> None:
        """first: the number of the first packing, by which their random streams are told apart."""
        self.fim = fim
        self.packings: list[Packing] = []
        kinds, texts, read = [], [], sources(shard, mixture)
        for source in read:
            for share, repositories in ((1 - config.repo_share, False), (config.repo_share, True)):
                if share:
                    number = first + len(self.packings)
                    given = (shard, source.documents, tokenizer.fim.endoftext, length, seed, number)
                    if repositories:
                        self.packings.append(RepositoryPacking(tokenizer, config.repo_ordered_share, *given))
                    else:
                        self.packings.append((BestFitPacking if config.packing == "best_fit" else StreamPacking)(*given))
                    kinds.append(repositories)
                    # a source's share is one of the text, and windows with more padding hold less of it
                    padding = self.packings[-1].cut().padding if len(read) > 1 else 0.0
                    texts.append(source.share / (1 - padding))
        of_kind = (1 - config.repo_share, config.repo_share)
        whole = [sum(text for text, kind in zip(texts, kinds, strict=True) if kind == which) for which in (False, True)]
        self.turns = Turns([of_kind[kind] * text / whole[kind] for kind, text in zip(kinds, texts, strict=True)])

    def pieces(self, i: int) -> Iterator[Piece]:
        """The pieces of the i-th sample of this part."""
        packing, turn = self.turns[i]
        return self.packings[packing].pieces(turn)


class PackedSamples(Dataset[Sample]):
    """The samples of a token shard."""

    def __init__(
        self,
        shard: TokenShard,
        tokenizer: Tokenizer,
        fim: FimConfig,
        length: int,
        seed: int,
        data: DataConfig | None = None,
        anneal_from: int | None = None,
    ) -> None:
        """length: of the context. anneal_from: the sample at which `data.anneal` takes over.

        Raises UserError if the mixture cannot be had of these documents.
        """
        self.shard = shard
        self.tokenizer = tokenizer
        self.length = length
        self.seed = seed
        self.data = data or DataConfig()
        self.anneal_from = anneal_from
        self.epoch_tokens = len(shard.ids) + len(shard)
        """of all documents, each read once"""
        self.main = Reading(shard, tokenizer, self.data, self.data.mixture, fim, length, seed, 0)
        self.annealing: Reading | None = None
        if anneal := self.data.anneal:
            changed = {} if anneal.repo_share is None else {"repo_share": anneal.repo_share}
            self.annealing = Reading(
                shard,
                tokenizer,
                self.data.model_copy(update=changed),
                anneal.mixture,
                fim if anneal.fim_rate is None else fim.model_copy(update={"rate": anneal.fim_rate}),
                length,
                seed,
                len(self.main.packings),
            )

    def annealed_from(self, sample: int) -> Self:
        """The same samples, but that `data.anneal` takes over at one of them."""
        other = copy.copy(self)
        other.anneal_from = sample
        return other

    def reading(self, i: int) -> tuple[Reading, int]:
        """What sample i is drawn from, and its number there."""
        if self.annealing is not None and self.anneal_from is not None and i >= self.anneal_from:
            return self.annealing, i - self.anneal_from
        return self.main, i

    def pieces(self, i: int) -> Iterator[Piece]:
        """The pieces of sample i before fill-in-the-middle, at most `length` + 1 ids in all."""
        reading, number = self.reading(i)
        return reading.pieces(number)

    def documents(self, i: int) -> list[str]:
        """repo/path of the documents in sample i, each once, in order."""
        index = known(self.shard)
        return list(dict.fromkeys(index.place(piece.document) for piece in self.pieces(i)))

    def facts(self) -> dict[str, Any]:
        """What the packing does to the documents, over an epoch of each source."""
        cuts = [packing.cut() for packing in self.main.packings]
        return {
            "packing": self.data.packing,
            "documents_cut": sum(cut.documents for cut in cuts),
            "padding_share": round(
                sum(cut.padding * share for cut, share in zip(cuts, self.main.turns.shares, strict=True)), 4
            ),
        }

    def __getitem__(self, i: int) -> Sample:
        fim = self.reading(i)[0].fim
        random = generator(self.seed, SAMPLE, i)
        ids = np.full(self.length + 1, self.tokenizer.fim.fim_pad, dtype=np.int64)
        kinds, positions = np.zeros_like(ids), np.zeros_like(ids)
        start = begin = 0
        for piece in self.pieces(i):
            if piece.may_be_fim and len(piece.ids) >= SHORTEST_FIM_PIECE and random.random() < fim.rate:
                language = self.shard.language_of(piece.document)
                part, part_kinds = fim_piece(piece, self.tokenizer, fim, random, language)
            else:
                part, part_kinds = piece.ids, piece.prose.astype(np.int64)
            begin = begin if piece.goes_on else start
            end = start + len(part)
            ids[start:end], kinds[start:end], positions[start:end] = part, part_kinds, np.arange(start - begin, end - begin)
            start = end
        positions[start:] = np.arange(len(positions) - start)
        labels = ids[1:].copy()
        labels[start - 1 :] = IGNORE
        return Sample(*map(torch.from_numpy, (ids[:-1].copy(), labels, kinds[1:].copy(), positions[:-1].copy())))
