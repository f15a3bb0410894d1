"""Models through the backends of the engine: how fast they read a prompt, and how fast they write.

    python benchmarks/backends.py runs/mine runs/mine/export/nano-q8_0.gguf --threads 1

MODEL is whatever `codelm serve` takes. The models take turns, so that what else the machine does falls on all of them; the
medians over the rounds are told, by the clock and by the CPU time of the process. With one thread the latter is what the clock
would say if nothing else ran; on a busy machine look at that. Nothing of the scheduler is in these figures: one sequence, the
prompt in batches as large as the backend takes, then a token at a time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from serving.backend import Backend, Slice
from serving.open_model import open_model


class Took(NamedTuple):
    """Seconds by the clock, and of the CPU."""

    clock: float
    cpu: float


def timed(work: Callable[[], object]) -> Took:
    """How long something takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - clock, time.process_time() - cpu)


def read(model: Backend, ids: list[int]) -> None:
    """Reads a prompt in a sequence that is emptied before."""
    model.keep(0, 0)
    for at in range(0, len(ids), model.batch_tokens):
        tokens = ids[at : at + model.batch_tokens]
        model.decode([Slice(0, tokens, (len(tokens) - 1,))])


def write(model: Backend, tokens: int) -> None:
    """Writes greedily after what was read."""
    token = 0
    for _ in range(tokens):
        token = int(model.decode([Slice(0, [token], (0,))])[0].argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", help="of checkpoints")
    parser.add_argument("--load-in", choices=["8bit", "4bit"], help="of checkpoints")
    parser.add_argument("--prompt", type=int, default=400, help="tokens")
    parser.add_argument("--tokens", type=int, default=32, help="to write")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    text = Path(statistics.__file__).read_text(encoding="utf-8")
    models = {}
    for path in arguments.models:
        options = {"device": arguments.device, "load_in": arguments.load_in} if path.is_dir() else {}
        models[path] = open_model(path, arguments.threads, sequences=1, **options)
    reading: dict[Path, list[Took]] = {path: [] for path in models}
    writing: dict[Path, list[Took]] = {path: [] for path in models}
    for _ in range(arguments.rounds + 1):
        for path, model in models.items():
            ids = model.encode(text)[: arguments.prompt]
            reading[path].append(timed(partial(read, model, ids)))
            writing[path].append(timed(partial(write, model, arguments.tokens)))
    print(f"{'':<50} tokens read a second (CPU)   ms a token written (CPU)")
    for path in models:  # the first round sets things up
        read_in, written_in = (
            [statistics.median(one) for one in zip(*took[path][1:], strict=True)] for took in (reading, writing)
        )
        speeds = [arguments.prompt / seconds for seconds in read_in]
        ms = [1000 * seconds / arguments.tokens for seconds in written_in]
        print(f"{str(path)[-50:]:<50} {speeds[0]:13,.0f} ({speeds[1]:6,.0f}) {ms[0]:19.2f} ({ms[1]:.2f})")


if __name__ == "__main__":
    main()
