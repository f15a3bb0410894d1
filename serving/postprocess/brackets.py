"""With the completion in it, a file has no more closing brackets without partner than before."""

from serving.lexer import scan
from serving.postprocess.place import Place

MOST = 64
"""Closers to try, from the last one back; a text with more of them is dropped."""


def apply(text: str, place: Place) -> str:
    """The text, or the most of it before one of its closers that leaves none without partner.

    So a closer stays that belongs to the text or is missing in the file, and one that the file has already goes, with
    what follows it.
    """
    around = place.surroundings
    if not text or around.surplus(text) <= (allowed := around.surplus("")):
        return text
    closers = [at for at, bracket in scan(text, place.language, around.mode).brackets if bracket not in place.language.pairs]
    for at in reversed(closers[-MOST:]):
        cut = text[:at].rstrip()
        if around.surplus(cut) <= allowed:
            return cut
    return ""
