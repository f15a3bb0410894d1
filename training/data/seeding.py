"""Random streams that are told apart by numbers."""

import numpy as np

EPOCH, SAMPLE = 0, 1
"""Purposes of random streams."""


def generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The random stream of one purpose and up to three numbers: Philox is counter-based, so no state is carried along.

    The numbers are the upper words of its counter. The lowest one counts what is drawn: streams never run into each other.
    """
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *numbers, *[0] * (3 - len(numbers))]))
