"""The split into training and validation by package, so that the two never share one."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

TRAIN, VALID = "train", "valid"


def packages(sizes: Mapping[str, int], dominant: float) -> dict[str, str]:
    """Path → package, of one source. sizes: path → bytes.

    A package is what stands at the top: a folder, or files of one stem. One that holds more than the share `dominant`
    of all bytes, as in a repository whose code is all below `src/`, is taken apart into what stands in it instead.
    """
    limit = dominant * sum(sizes.values())

    def apart(paths: list[str], depth: int) -> dict[str, str]:
        groups = defaultdict(list)
        for path in paths:
            groups[package_at(path, depth)].append(path)
        found: dict[str, str] = {}
        for name, members in groups.items():
            if len(members) > 1 and sum(sizes[path] for path in members) > limit:
                found |= apart(members, depth + 1)
            else:
                found |= dict.fromkeys(members, name)
        return found

    return apart(list(sizes), 0)


def package_at(path: str, depth: int) -> str:
    """The first folders of a path, the file without its extensions, or, deeper than it goes, the file."""
    parts = path.split("/")
    if depth >= len(parts):
        return path
    if depth == len(parts) - 1:
        parts[-1] = parts[-1].split(".", 1)[0] or parts[-1]
    return "/".join(parts[: depth + 1])


def units(sizes: Mapping[str, Mapping[str, int]], valid_share: float) -> dict[str, dict[str, str]]:
    """Repo → path → package, "" for all of a repository: only one with more than half of all bytes is taken apart."""
    half = sum(sum(files.values()) for files in sizes.values()) / 2
    return {
        repo: packages(files, dominant=1 - valid_share / 2) if sum(files.values()) > half else dict.fromkeys(files, "")
        for repo, files in sizes.items()
    }


def split(sizes: Mapping[str, Mapping[str, int]], valid_share: float, seed: int) -> dict[str, dict[str, str]]:
    """Repo → path → TRAIN or VALID. sizes: repo → path → bytes.

    Packages go to validation in the order of a hash of (seed, repo, package) until it has `valid_share` of the bytes;
    one that would bring it above 1.5 times that is passed over. If all are that large, the smallest is taken.
    Raises ValueError if there are fewer than two packages.
    """
    owner = units(sizes, valid_share)
    weight: dict[tuple[str, str], int] = defaultdict(int)
    for repo, files in owner.items():
        for path, package in files.items():
            weight[repo, package] += sizes[repo][path]
    if len(weight) < 2:
        raise ValueError("a split needs at least two packages")
    wanted = valid_share * sum(weight.values())
    held: set[tuple[str, str]] = set()
    size = 0
    for unit in sorted(weight, key=lambda unit: stable_hash(seed, *unit)):
        if size < wanted and size + weight[unit] <= 1.5 * wanted:
            held.add(unit)
            size += weight[unit]
    if not held:
        held.add(min(weight, key=lambda unit: (weight[unit], stable_hash(seed, *unit))))
    return {
        repo: {path: VALID if (repo, package) in held else TRAIN for path, package in files.items()}
        for repo, files in owner.items()
    }


def stable_hash(seed: int, repo: str, package: str) -> bytes:
    """A hash that no process or machine changes."""
    return hashlib.blake2b(f"{seed}\0{repo}\0{package}".encode(), digest_size=16).digest()
