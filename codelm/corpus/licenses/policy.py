"""Whether a licence may stay in the corpus."""

import fnmatch
from functools import lru_cache

from codelm.config.corpus import LicensePolicy
from codelm.corpus.licenses.expressions import RANKS, category, fold, parse, proper
from codelm.corpus.licenses.tree import License
from codelm.corpus.sources.base import Rejection


def license_rejection(found: License, policy: LicensePolicy) -> Rejection | None:
    """Why a file of this licence may not stay ("license", "license_unknown"), or None: some choice it offers is allowed.

    An expression that cannot be read counts as unknown.
    """
    verdict = allowed(found.spdx, tuple(policy.allow), tuple(policy.deny))
    if verdict is None:
        return Rejection("license_unknown", found.spdx or "") if policy.unknown == "drop" else None
    return None if verdict else Rejection("license", found.spdx or "")


@lru_cache(maxsize=65536)
def allowed(expression: str | None, allow: tuple[str, ...], deny: tuple[str, ...]) -> bool | None:
    """Whether an expression offers a choice that is allowed as a whole; None if it cannot be read.

    A pattern with " WITH " is compared with licence and exception, any other with the licence alone.
    """
    tree = parse(expression)
    if tree is None:
        return None

    def listed(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
        spdx = proper(names[0])
        whole = " WITH ".join([spdx, *names[1:]])
        return any(
            category(spdx) == pattern
            if pattern in RANKS
            else fnmatch.fnmatchcase((whole if " WITH " in pattern else spdx).lower(), pattern.lower())
            for pattern in patterns
        )

    verdict: bool = fold(tree, lambda names: listed(names, allow) and not listed(names, deny), all, any)
    return verdict
