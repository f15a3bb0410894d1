"""Scores of the next token after any ids, from llama.cpp, for benchmarks that look at probabilities."""

from collections.abc import Sequence

import numpy as np

from serving.backend import Floats, Slice
from serving.kv import KvCache
from serving.llamacpp import LlamaCpp


class Reader:
    """Reads in one sequence of a model, and no token twice that stands where it stood. A model is to have one reader."""

    def __init__(self, model: LlamaCpp) -> None:
        self.model = model
        self._kv = KvCache(model)

    def scores(self, ids: Sequence[int], last: int = 1) -> Floats:
        """Of the token after each of the last ids, (last, vocab)."""
        model = self.model
        sequence = self._kv.begin(self, ids[: len(ids) - last + 1])
        assert sequence is not None, "nobody else reads"
        rows = []
        for start in range(len(sequence.tokens), len(ids), model.batch_outputs):
            chunk = list(ids[start : start + model.batch_outputs])
            wanted = [index for index in range(len(chunk)) if start + index >= len(ids) - last]
            scores = model.decode([Slice(sequence.id, chunk, wanted)])
            self._kv.extend(sequence, chunk)
            rows += list(scores)
        self._kv.end(sequence)
        return np.stack(rows)
