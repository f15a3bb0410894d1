"""Random streams."""

import itertools

from training.data.seeding import EPOCH, SAMPLE, generator


def test_a_stream_depends_on_its_key_only() -> None:
    assert generator(1, SAMPLE, 5).random(4).tolist() == generator(1, SAMPLE, 5).random(4).tolist()


def test_no_stream_runs_into_another() -> None:
    keys = [
        *((seed, purpose, number) for seed in (0, 1) for purpose in (EPOCH, SAMPLE) for number in range(40)),
        *((0, EPOCH, number, other) for number in range(5) for other in range(1, 5)),
    ]
    streams = [set(generator(*key).integers(0, 1 << 62, size=100).tolist()) for key in keys]
    assert all(not one & other for one, other in itertools.combinations(streams, 2))
