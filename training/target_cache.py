"""What a teacher says of samples, computed once and kept in memory-mapped shards.

    cache.json                   what the targets are of: teacher, data, top_k, temperature
    targets-<first>-<last>.npy   samples first … last: a checksum of its token ids, `top` and `logprobs` of each
    targets-<first>-<last>.json  the SHA-256 of that shard; without it a shard is not there

Log-probabilities are float16, tokens uint16 where the vocabulary allows it: about 4 · k bytes for each token.
"""

import bisect
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from codelm.errors import UserError
from codelm.progress import Progress
from codelm.stage import disk_full_is_a_user_error, file_sha256, write_atomically
from training.data import PackedSamples, Sample
from training.distill_loss import Targets
from training.stage import differences

FILE = "cache.json"
SHARD_BYTES = 1 << 24
"""What a killed process may lose: minutes of a large teacher's work."""


class Shard(NamedTuple):
    """Targets of samples first … last − 1."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """Of its files, without their endings."""
        return f"targets-{self.first:09}-{self.last:09}"


class TargetCache:
    """The targets of one teacher on one order of samples."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], length: int, k: int, vocab_size: int) -> None:
        """identity: what the targets depend on."""
        self.folder = folder
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.row = np.dtype(
            [
                ("crc32", np.uint32),
                ("top", np.uint16 if vocab_size <= 1 << 16 else np.uint32, (length, k)),
                ("logprobs", np.float16, (length, k + 1)),
            ]
        )
        self._maps: dict[Shard, npt.NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a data worker maps the files itself

    def claim(self) -> None:
        """Records what the targets are of. Raises UserError if the folder holds those of something else."""
        path, identity = self.folder / FILE, self.identity
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(identity, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged", f"delete {self.folder}; the targets are computed again") from error
        if changed := differences(before, identity):
            raise UserError(
                f"{self.folder} holds what a teacher said of something else ({', '.join(changed[:3])})",
                "give another folder with --cache",
            )

    def shards(self) -> list[Shard]:
        """The shards that are there, in order."""
        names = (path.stem.split("-") for path in self.folder.glob("targets-*-*.json"))
        return sorted(Shard(int(first), int(last)) for _, first, last in names)

    def missing(self, first: int, last: int) -> list[Shard]:
        """The shards to make before the targets of samples first … last − 1 are there."""
        gaps, at = [], first
        for shard in self.shards():
            if shard.last > at and shard.first < last:
                gaps.append((at, shard.first))
                at = max(at, shard.last)
        gaps.append((at, last))
        size = max(1, SHARD_BYTES // self.row.itemsize)
        return [Shard(n, min(n + size, end)) for begin, end in gaps for n in range(begin, end, size)]

    def fill(
        self,
        missing: list[Shard],
        samples: PackedSamples,
        teach: Callable[[Sample], Targets],
        batch: int,
        progress: Progress,
    ) -> None:
        """Makes shards, each whole or not at all. teach: a batch of samples → its targets. batch: how many samples at once."""
        total, done = sum(shard.last - shard.first for shard in missing), 0
        with disk_full_is_a_user_error(self.folder):
            for shard in missing:
                rows = np.zeros(shard.last - shard.first, dtype=self.row)
                for begin in range(shard.first, shard.last, batch):
                    progress(done + begin - shard.first, total, note="the teacher reads")
                    numbers = range(begin, min(begin + batch, shard.last))
                    read = [samples[i] for i in numbers]
                    targets = teach(Sample(*map(torch.stack, zip(*read, strict=True))))
                    part = rows[begin - shard.first :][: len(read)]
                    part["crc32"] = [checksum(sample) for sample in read]
                    part["top"], part["logprobs"] = targets.top.cpu().numpy(), targets.logprobs.cpu().numpy()
                done += len(rows)
                partial = self.folder / f".{shard.name}.partial"
                with partial.open("wb") as file:
                    np.save(file, rows)
                sha256 = file_sha256(partial)
                partial.rename(self.folder / f"{shard.name}.npy")
                write_atomically(self.folder / f"{shard.name}.json", json.dumps({"sha256": sha256}) + "\n")
        progress(total, total)

    def verify(self, first: int, last: int) -> None:
        """Raises UserError if a shard that samples first … last − 1 need is not what was written."""
        self._order = self.shards()
        for shard in self._order:
            if shard.last <= first or shard.first >= last:
                continue
            path = self.folder / f"{shard.name}.npy"
            try:
                expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
                whole = file_sha256(path) == expected
            except (OSError, ValueError, KeyError):
                whole = False
            if not whole:
                raise UserError(f"{path} is damaged", f"delete it and its {shard.name}.json; they are made again")

    def targets(self, i: int, sample: Sample) -> Targets:
        """Of sample i, after `verify`. Raises UserError if they were computed of other token ids."""
        shard = self._order[bisect.bisect_right(self._order, i, key=lambda shard: shard.first) - 1]
        if shard not in self._maps:
            self._maps[shard] = np.load(self.folder / f"{shard.name}.npy", mmap_mode="r")
        row = self._maps[shard][i - shard.first]
        if row["crc32"] != checksum(sample):
            raise UserError(
                f"{self.folder}: sample {i} is not the one that the teacher read", "give another folder with --cache"
            )
        return Targets(torch.from_numpy(row["top"].astype(np.int32)), torch.from_numpy(row["logprobs"].copy()))


def checksum(sample: Sample) -> int:
    """Of the token ids that a teacher reads."""
    return zlib.crc32(sample.ids.numpy().tobytes())


def room_for(folder: Path, needed: int) -> str:
    """What `needed` bytes in a folder mean, in words. Raises UserError if the disk has not as much."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the teacher's targets take {needed / 1e6:,.1f} MB, {folder} has room for {free / 1e6:,.1f} MB",
            "give a folder on another disk with --cache, a smaller distill.top_k, or no --cache: then the teacher runs along",
        )
    return f"the teacher's targets take {needed / 1e6:,.1f} MB of the {free / 1e6:,.1f} MB free in {folder}"
