"""Why files are not in a corpus, for people: data/reasons.yaml."""

import yaml

from codelm.corpus.languages import DATA

REASONS: dict[str, str] = yaml.safe_load((DATA / "reasons.yaml").read_text(encoding="utf-8"))
"""Reason of a rejected row → the rule in a sentence."""
