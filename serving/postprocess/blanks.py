"""No second blank after one that is typed, and none at the end where nothing follows."""

from serving.postprocess.place import Place


def apply(text: str, place: Place) -> str:
    """The text without them; nothing if it is all blanks."""
    if place.before.strip() and place.before[-1].isspace():
        text = text.lstrip(" \t")
    if not place.after or "\n" in text[len(text.rstrip()) :]:
        return text.rstrip()
    return text if text.strip() else ""
