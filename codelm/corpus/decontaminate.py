"""Benchmark problems that must not be learned: found in a file by the hashes of their runs of lexemes."""

from typing import NamedTuple

from codelm.config.corpus import Decontamination
from codelm.lexemes import Lexemes


class Contamination(NamedTuple):
    """The passages of benchmarks to look for. Can be pickled."""

    @classmethod
    def load(cls, config: Decontamination) -> "Contamination":
        """Those of the settings. Raises UserError if a set of the user's is missing or not JSONL."""
        raise NotImplementedError

    def find(self, found: Lexemes) -> str | None:
        """The first benchmark problem of which a text holds the prompt or a solution: humaneval/HumanEval/23."""
        raise NotImplementedError
