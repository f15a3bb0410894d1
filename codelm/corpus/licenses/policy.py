"""Whether a licence may stay in the corpus."""

from codelm.config.corpus import LicensePolicy
from codelm.corpus.licenses.tree import License
from codelm.corpus.sources.base import Rejection


def license_rejection(found: License, policy: LicensePolicy) -> Rejection | None:
    """Why a file of this licence may not stay ("license", "license_unknown"), or None: some choice it offers is allowed."""
    raise NotImplementedError
