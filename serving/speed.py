"""How long a backend takes for so many tokens at once: measured at the start, and kept true by every batch since."""

import time

from serving.backend import Backend, Slice

SIZES = (1, 2, 4, 8, 16, 64)
LEARNED = 0.1
"""How far one batch moves what is known."""
OUTLIER = 4.0
"""No batch counts as more than so many times what was expected: the machine may have had other things to do."""


class Speed:
    """Milliseconds of one batch by its tokens."""

    def __init__(self, ms: dict[int, float]) -> None:
        """ms: of batches of each of SIZES."""
        self._ms = [ms[size] for size in SIZES]

    @classmethod
    def measure(cls, backend: Backend) -> "Speed":
        """Reads a few batches in the backend's first sequence, which is empty before and after."""
        ms = {}
        for size in SIZES:
            size_now = min(size, backend.batch_tokens, backend.context_length)
            times = []
            for _ in range(2):  # the first one of a size also sets something up
                started = time.perf_counter()
                backend.decode([Slice(0, [backend.fim.endoftext] * size_now, (size_now - 1,))])
                times.append((time.perf_counter() - started) * 1000)
                backend.keep(0, 0)
            ms[size] = min(times) * size / size_now
        return cls(ms)

    def ms(self, tokens: int) -> float:
        """Milliseconds that a batch of so many tokens takes."""
        low, high, share = place(tokens)
        return max(self._ms[low], self._ms[low] + share * (self._ms[high] - self._ms[low]))

    def note(self, tokens: int, ms: float) -> None:
        """Takes in what a batch took."""
        low, high, share = place(tokens)
        ratio = min(OUTLIER, max(1 / OUTLIER, ms / self.ms(tokens)))
        nearer = high if share > 0.5 else low
        self._ms[nearer] *= ratio**LEARNED

    def tokens_within(self, ms: float) -> int:
        """How many tokens can be read at once in that time, one at least."""
        if ms >= self.ms(SIZES[-1]):
            return int(ms * self.prefill)
        low, high = 1, SIZES[-1]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.ms(middle) <= ms else (low, middle)
        return low

    @property
    def prefill(self) -> float:
        """Tokens a millisecond when many are read at once."""
        return SIZES[-1] / self._ms[-1]


def place(tokens: int) -> tuple[int, int, float]:
    """Between which two of SIZES a number lies, as indices, and how far on the way; over 1 beyond the last of them."""
    high = next((index for index, size in enumerate(SIZES) if size >= tokens), len(SIZES) - 1)
    low = max(0, high - 1)
    if high == low:
        return low, high, 0.0
    return low, high, (tokens - SIZES[low]) / (SIZES[high] - SIZES[low])
