"""Winnowing: few of the hashes of a text's grams, so chosen that two texts that share a run share a chosen hash.

Schleimer, Wilkerson, Aiken: Winnowing, Local Algorithms for Document Fingerprinting, SIGMOD 2003.
"""

import numpy as np
import numpy.typing as npt

from codelm.lexemes import BASE, Hashes, mixed

GRAM = 15
"""Lexemes in what one fingerprint is of."""
WINDOW = 16
"""Grams of which at least one is chosen."""
RUN = GRAM + WINDOW - 1
"""Lexemes of the shortest run in which a fingerprint is sure to be chosen: 30."""

Indices = npt.NDArray[np.int64]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def choices(grams: Hashes) -> Indices:
    """For each window of grams, the index of the one it chooses; never decreases.

    It is the least by its low 32 bits, so that the chosen hashes spread evenly over the high ones; of equals the last. What a
    window chooses depends on nothing outside it. At most 2^32 grams.
    """
    if len(grams) < WINDOW:
        return np.empty(0, dtype=np.int64)
    # hash above, place below and turned round: one minimum finds the least hash and the last of its places
    least = (grams << HALF) | (LOW - np.arange(len(grams), dtype=np.uint64))
    width = 1
    while width < WINDOW:
        least = np.minimum(least[:-width], least[width:])
        width *= 2
    return (LOW - (least & LOW)).astype(np.int64)


def run_hashes(lexemes: npt.NDArray[np.uint32], starts: Indices) -> Hashes:
    """One hash for each run of RUN lexemes that begins at one of `starts`."""
    total = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(RUN):
        total = total * np.uint64(BASE) + lexemes[starts + offset]
    return mixed(total)
