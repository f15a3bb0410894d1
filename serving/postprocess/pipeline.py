"""The steps from what a model wrote to what is shown."""

from dataclasses import dataclass

from serving.postprocess import blanks, brackets, ending, following, indentation, preceding, repetition, special, syntax
from serving.postprocess.place import Place
from serving.request import CompletionRequest, StopReason

STEPS = (special, indentation, ending, repetition, preceding, following, brackets, blanks)
"""In their order: each has `apply(text, place) -> str`, a pure function that leaves out or indents, and never adds."""


@dataclass(frozen=True)
class Processed:
    """What is left of a completion.

    dropped_by: the step that left nothing of it. steps: those that changed it.
    """

    text: str
    dropped_by: str | None = None
    steps: tuple[str, ...] = ()


def postprocess(text: str, request: CompletionRequest, reason: StopReason) -> Processed:
    """What to show of a completion's text, its lines ended as the file's are.

    A request without a limit of lines comes from a caller with stop strings of its own, who gets the text as it is, but
    for special tokens. reason: why the text ends; one that was cut off is not held to be whole.
    """
    if request.max_lines is None:
        shown = special.apply(text, Place(request))
        return Processed(shown, "special" if text and not shown else None, ("special",) if shown != text else ())
    place = Place.of(request)
    shown, steps = text.replace("\r\n", "\n"), []
    settled = False
    while not settled:  # one step's cut may show another what to do
        settled = True
        for step in STEPS:
            name = step.__name__.rpartition(".")[2]
            new = step.apply(shown, place)
            if new != shown:
                shown, settled = new, False
                steps.append(name)
            if not shown:
                return Processed("", name if text else None, tuple(dict.fromkeys(steps)))
    if syntax.breaks(shown, place, reason):
        return Processed("", "syntax", (*dict.fromkeys(steps), "syntax"))
    if crlf(request):
        shown = shown.replace("\n", "\r\n")
    return Processed(shown, None, tuple(dict.fromkeys(steps)))


def crlf(request: CompletionRequest) -> bool:
    """Whether the newline nearest to the cursor is "\\r\\n"."""
    at = request.prefix.rfind("\n")
    if at >= 0:
        return request.prefix[:at].endswith("\r")
    return request.suffix.partition("\n")[0].endswith("\r") and "\n" in request.suffix
