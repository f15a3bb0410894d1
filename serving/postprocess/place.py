"""Where a completion goes: what the steps look at."""

from dataclasses import dataclass, replace
from functools import cached_property

from serving.languages import Language, language_of
from serving.lexer import LINE_LIMIT, Surroundings
from serving.postprocess.style import style_of
from serving.request import CompletionRequest
from serving.scope import last_lines, line_before
from serving.stop import StopRules

LINES_AROUND = 60
"""How many lines before and after the cursor's are looked at."""


@dataclass(frozen=True)
class Place:
    """The cursor of a request whose lines end in "\\n"."""

    request: CompletionRequest

    @classmethod
    def of(cls, request: CompletionRequest) -> "Place":
        """The cursor of a request, whatever its lines end in."""
        if "\r\n" in request.prefix or "\r\n" in request.suffix:
            prefix, suffix = request.prefix.replace("\r\n", "\n"), request.suffix.replace("\r\n", "\n")
            request = replace(request, prefix=prefix, suffix=suffix)
        return cls(request)

    @cached_property
    def language(self) -> Language:
        return language_of(self.request.language, self.request.path)

    @cached_property
    def surroundings(self) -> Surroundings:
        return Surroundings(self.request.prefix, self.request.suffix, self.language)

    @cached_property
    def before(self) -> str:
        """The cursor's line up to it; of a very long one its indentation and its end."""
        return line_before(self.request.prefix)

    @cached_property
    def after(self) -> str:
        """The cursor's line from it on, without blanks at its end; of a very long one its beginning."""
        return self.request.suffix.partition("\n")[0][:LINE_LIMIT].rstrip()

    @cached_property
    def above(self) -> list[str]:
        """The last lines before the cursor's that are not blank, without blanks at their ends."""
        text, newline, _ = self.request.prefix.rpartition("\n")
        return [line.rstrip() for line in last_lines(text, LINES_AROUND) if line.strip()] if newline else []

    @cached_property
    def below(self) -> list[str]:
        """The first lines after the cursor's that are not blank, without blanks at their ends."""
        _, newline, text = self.request.suffix.partition("\n")
        lines = text.split("\n", LINES_AROUND)[:LINES_AROUND] if newline else []
        return [line.rstrip() for line in lines if line.strip()]

    @cached_property
    def style(self) -> str | None:
        """What one level of indentation is around the cursor; None if nothing is indented."""
        return style_of([*self.above, self.before + "|", *self.below])

    @cached_property
    def rules(self) -> StopRules:
        """Where a completion ends."""
        return StopRules.of(self.request)

    def lines_with(self, text: str) -> list[str]:
        """The lines of a text at the cursor, the first with what stands before it."""
        first, *rest = text.split("\n")
        return [self.before + first, *rest]
