"""Special tokens are never shown, not even where a model spells one out."""

import re

from codelm.fim import SPECIAL_TOKENS
from serving.postprocess.place import Place

SPECIAL = re.compile(r"<\|\w+\|>")


def apply(text: str, place: Place) -> str:
    """The text before the first of them. Those of other models may stand in a file that has the very same."""
    for found in SPECIAL.finditer(text):
        token = found[0]
        if token in SPECIAL_TOKENS or not (token in place.request.prefix or token in place.request.suffix):
            return text[: found.start()]
    return text
