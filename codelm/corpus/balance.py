"""How languages and sources are mixed: a cap on the largest languages, and the weights to draw them by."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codelm.config.corpus import Balance


class Balanced(NamedTuple):
    """What the cap leaves."""

    keep: npt.NDArray[np.bool_]
    """one for each file"""
    warnings: list[str]
    """what was cut down, and what would have been"""


def balance(
    languages: Sequence[str], sizes: npt.NDArray[np.integer], keys: Sequence[str], config: Balance, seed: int
) -> Balanced:
    """Cuts every language down to at most `config.max_language_share` of the bytes that are kept in all.

    languages, sizes (bytes), keys (unique names): of each file. Files go in the order of a hash of (seed, key), whatever
    order they are given in. A language that would lose more than `config.max_dropped` of its bytes stays whole.
    """
    names, of = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
    of_files = np.asarray(sizes, dtype=np.float64)
    before = np.bincount(of, weights=of_files, minlength=len(names)).astype(np.float64)
    whole: set[int] = set()
    warnings: list[str] = []
    while True:
        keep = cut(of, of_files, keys, before, whole, config.max_language_share, seed)
        after = np.bincount(of[keep], weights=of_files[keep], minlength=len(names))
        lost = (before - after) / np.maximum(before, 1)
        # the largest first: with it whole, the others may fit; none is dropped altogether
        spoilt = (lost > config.max_dropped) | (lost == 1)
        spared = [int(i) for i in np.argsort(-before, kind="stable") if i not in whole and spoilt[i]]
        if not spared:
            break
        whole.add(spared[0])
        if len(names) == 1:
            continue  # who builds a corpus of one language knows it
        share = before[spared[0]] / before.sum()
        warnings.append(
            f"{names[spared[0]]} is {share:.0%} of the bytes; to bring it to {config.max_language_share:.0%} would drop "
            f"{lost[spared[0]]:.0%} of it, so it stays whole: add code in other languages, or raise balance.max_language_share "
            "(or balance.max_dropped)"
        )
    for i in np.flatnonzero(after < before):
        dropped = int(np.count_nonzero(~keep & (of == i)))
        warnings.append(
            f"{names[i]} was {before[i] / before.sum():.0%} of the bytes and is cut down to {after[i] / after.sum():.0%}: "
            f"{dropped:,} of its {np.count_nonzero(of == i):,} files are left out (balance.max_language_share)"
        )
    return Balanced(keep, warnings)


def cut(
    of: npt.NDArray[np.intp],
    sizes: npt.NDArray[np.float64],
    keys: Sequence[str],
    before: npt.NDArray[np.float64],
    whole: set[int],
    share: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which files to keep. of: index of each file's language. before: bytes of each language. whole: those not to cut."""
    keep = np.ones(len(of), dtype=bool)
    left = before.copy()
    orders: dict[int, npt.NDArray[np.intp]] = {}
    while True:
        limit = level(left, whole, share)
        over = [int(i) for i in np.flatnonzero(left > limit) if i not in whole]
        if not over:
            return keep
        for i in over:
            if i not in orders:
                files = np.flatnonzero(of == i)
                orders[i] = files[np.argsort([stable_hash(seed, keys[int(file)]) for file in files])]
            # as many of the first as it takes for the rest to fit
            drops = int(np.searchsorted(np.cumsum(sizes[orders[i]]), before[i] - limit)) + 1
            keep[orders[i][:drops]] = False
            left[i] = sizes[orders[i][drops:]].sum()


def level(amounts: npt.NDArray[np.float64], whole: set[int], share: float) -> float:
    """The most that a language may have, so that none has more than `share` of what is left then in all.

    With k languages cut to the level c and the rest r untouched, c = share · (k · c + r).
    """
    cuttable = sorted((float(a) for i, a in enumerate(amounts) if i not in whole), reverse=True)
    rest = float(amounts.sum())
    limit = share * rest
    for k, amount in enumerate(cuttable, start=1):
        if amount <= limit:
            return limit
        rest -= amount
        if k * share >= 1:  # fewer languages than 1 / share: no level is low enough
            return 0.0
        limit = share * rest / (1 - k * share)
    return limit


def weights(counts: Mapping[str, int], alpha: float) -> dict[str, float]:
    """Temperature mixing: name → probability, p_i ∝ n_i^alpha, the largest first. counts: name → bytes.

    alpha 1 draws each as it is, 0 all alike. Conneau et al., 2020 (arXiv:1911.02116), eq. 1.
    """
    raised = {name: float(count) ** alpha for name, count in counts.items() if count > 0}
    total = sum(raised.values())
    return {name: value / total for name, value in sorted(raised.items(), key=lambda item: (-item[1], item[0]))}


def mixture(files: Iterable[tuple[str, str, int]], source_of: Mapping[str, str], alpha: float) -> dict[str, Any]:
    """How to draw from the training files: the weights of languages and of sources.

    files: repo, language and bytes of each. source_of: repo → source; it goes into the result, so that a row tells its own.
    """
    languages, sources = Counter[str](), Counter[str]()
    for repo, language, size in files:
        languages[language] += size
        sources[source_of[repo]] += size
    return {
        "alpha": alpha,
        "languages": weights(languages, alpha),
        "sources": weights(sources, alpha),
        "source_of": dict(sorted(source_of.items())),
    }


def stable_hash(seed: int, key: str) -> int:
    """A hash that no process or machine changes."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest())
