"""Best-fit-decreasing bin packing of many items of few sizes."""

import numpy as np
import numpy.typing as npt


def best_fit_decreasing(sizes: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], int]:
    """The bin of each item, (items,), and the number of bins.

    sizes: (items,), from 1 to `capacity`. The largest item first, each goes into the fullest bin that has room for it. The
    result is that of placing them one by one, but all items of a size are placed at once: in the fullest bin with room r
    there is room for r // size of them, and what is left of it then is too small for the next one (Ding et al. 2024,
    arXiv 2404.10830, appendix A, does one item at a time with a segment tree).
    """
    bin_of = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    values, counts = np.unique(-sizes, return_counts=True)
    open_bins: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(capacity + 1)]
    """of each room that is left"""
    has_bins = np.zeros(capacity + 1, dtype=bool)
    bins = placed = 0
    for size, count in zip((-values).tolist(), counts.tolist(), strict=True):
        end = placed + count
        while placed < end:
            found = int(np.argmax(has_bins[size:])) + size
            if has_bins[found]:
                candidates, room = np.concatenate(open_bins[found]), found
                open_bins[found], has_bins[found] = [], False
            else:
                room = capacity
                candidates = np.arange(bins, bins - ((placed - end) // (room // size)))
                bins += len(candidates)
            each = room // size
            items = min(end - placed, each * len(candidates))
            used = -(-items // each)
            bin_of[order[placed : placed + items]] = np.repeat(candidates[:used], each)[:items]
            placed += items
            in_last = items - each * (used - 1)
            for left, some in (
                (room - each * size, candidates[: used - 1]),
                (room - in_last * size, candidates[used - 1 : used]),
                (room, candidates[used:]),
            ):
                if len(some) and left:
                    open_bins[left].append(some)
                    has_bins[left] = True
    return bin_of, bins
