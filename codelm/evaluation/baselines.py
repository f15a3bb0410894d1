"""What needs no training on a GPU, or none at all: the baselines that a language model stands beside."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from codelm.corpus.tokens import open_shard
from codelm.evaluation.bits_per_byte import by_window, windows_of
from codelm.evaluation.generate import NEW_TOKENS
from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.ngram import ORDER, NgramModel
from codelm.evaluation.places import Place
from codelm.evaluation.systems import Bits, Written
from codelm.stage import Manifest
from codelm.tokenizer import FILE, Tokenizer

CONTEXT_CHARS = 200
"""More than the tokens of an n-gram ever are."""


class SimilarLine:
    """Copies the rest of the line from the earlier place of the file whose text before it is most like that before the cursor.

    Most alike is what has the longest common end, over lines: at the beginning of a line that is what followed when the lines
    before were the same, within a line what followed the same words. Of equals the nearest counts. No model at all.
    """

    name = "most similar earlier line"
    identity = "longest common end"

    def write(self, places: Sequence[Place]) -> Written:
        """The copied lines; nothing where even the last character is new."""
        started = time.monotonic()
        return Written.together([copied(place.prefix) for place in places], time.monotonic() - started)

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        """It knows no probabilities."""
        return None


def copied(prefix: str) -> str:
    """The rest of the line at the earlier place whose text before it shares the longest end with all of `prefix`."""
    end = -1
    for length in range(1, len(prefix)):
        # an end that is longer by one begins no later than one that was found
        at = prefix.rfind(prefix[-length:], 0, end if end >= 0 else len(prefix) - 1)
        if at < 0:
            break
        end = at + length
    return "" if end < 0 else prefix[end:].split("\n", 1)[0]


class Ngram:
    """A token n-gram model of the same training corpus, greedy."""

    name = f"{ORDER}-gram"

    def __init__(self, tokens: Path, tokenizer: Path, window: int) -> None:
        """tokens, tokenizer: the stage folders. window: tokens that are scored together, as for the model beside it."""
        self.tokens = tokens
        self.tokenizer = Tokenizer(tokenizer / FILE)
        self.window = window
        self.identity = f"{ORDER} {window} {Manifest.read(tokens).fingerprint}"

    @cached_property
    def model(self) -> NgramModel:
        """Of the training split, its documents one after the other with <|endoftext|> behind each."""
        shard = open_shard(self.tokens, "train")
        stream = np.insert(shard.ids, shard.offsets[1:], self.tokenizer.fim.endoftext)
        return NgramModel(stream, self.tokenizer.vocab_size)

    def write(self, places: Sequence[Place]) -> Written:
        """The likeliest token, again and again, up to the end of the line."""
        model = self.model
        started = time.monotonic()
        return Written.together([self.line(model, place.prefix) for place in places], time.monotonic() - started)

    def line(self, model: NgramModel, prefix: str) -> str:
        """One line; a token that the cursor cuts is taken back and spelled again, as for the model beside it."""
        healer = self.tokenizer.healer
        context, typed = healer.back_up(self.tokenizer.encode(prefix[-CONTEXT_CHARS:]))
        written, remaining = b"", typed
        for _ in range(NEW_TOKENS):
            probability = model.distribution(context[-(ORDER - 1) :])
            token = int(probability.argmax())
            if remaining:
                allowed = healer.allowed(remaining)
                token = int(allowed[probability[allowed].argmax()])
                remaining = healer.consume(remaining, token)
            piece = self.tokenizer.token_bytes[token]
            if not piece or probability[token] == 0:
                break
            context.append(token)
            written += piece
            if b"\n" in written[len(typed) :]:
                break
        return written[len(typed) :].decode(errors="replace").split("\n", 1)[0]

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        """On the windows of the model beside it."""
        windows = windows_of(held_out.shard(self.tokenizer), self.tokenizer, self.window, max_tokens)
        return by_window(self.model.nats(windows), windows, self.tokenizer)
