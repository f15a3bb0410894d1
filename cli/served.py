"""A GGUF as it is served, for evaluations: one request after the other, through the same engine."""

from collections.abc import Sequence
from pathlib import Path

from codelm.evaluation.held_out import HeldOut
from codelm.evaluation.places import Place
from codelm.evaluation.systems import Bits, Written
from codelm.stage import file_sha256


class Served:
    """A GGUF in llama.cpp, without a server around it."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """threads: as `codelm serve` takes them. Raises UserError if the file is none that `codelm serve` would take."""
        from serving.llamacpp import LlamaCpp

        model = LlamaCpp(path, threads, sequences=1)
        self.context = model.metadata.context_length
        model.close()
        self.path = path
        self.threads = threads
        self.name = path.name
        self.identity = file_sha256(path)

    def write(self, places: Sequence[Place]) -> Written:
        """Greedy lines. The milliseconds are those of a cursor that jumps: nothing of a prompt has been read before."""
        from serving.engine import Engine
        from serving.llamacpp import LlamaCpp
        from serving.request import CompletionRequest

        engine = Engine(LlamaCpp(self.path, self.threads, sequences=1))
        try:
            done = []
            for place in places:
                request = CompletionRequest(prefix=place.prefix, suffix=place.suffix, max_lines=1)
                done.append(engine.submit(request).future.result())
        finally:
            engine.close()
        return Written([one.text for one in done], [one.timings.total_ms for one in done])

    def bits(self, held_out: HeldOut, max_tokens: int) -> Bits | None:
        """What is served is lines; the bits per byte of its checkpoint are nearly the same."""
        return None
