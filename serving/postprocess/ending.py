"""A completion ends where its lines are full or its scope ends, whichever engine wrote it."""

from serving.postprocess.place import Place


def apply(text: str, place: Place) -> str:
    """The text up to there."""
    if "\n" not in text and not place.request.stop:
        return text
    found = place.rules.find(text)
    return text if found is None else text[: found[0]]
