"""What the protocols ask for completions: an engine on this machine or one behind a URL."""

from typing import Any, Protocol

from codelm.export.bundle import BundleMetadata
from serving.backend import Memory
from serving.job import Job, OnText
from serving.request import CompletionRequest
from serving.type_through import ShownSuggestions


class Model(Protocol):
    """What is known of the model that writes."""

    @property
    def metadata(self) -> BundleMetadata:
        """What its bundle says, or what stands for it."""


class Completer(Protocol):
    """Completes requests. Safe to use from every thread.

    `completed`, `cancelled` and `failed` count what became of them. suggestions: asked before the model; who shows a completion
    has them remember it.
    """

    completed: int
    cancelled: int
    failed: int
    suggestions: ShownSuggestions

    @property
    def predicted_tokens(self) -> int:
        """How many were written, also of texts that nobody waited for."""

    @property
    def model(self) -> Model:
        """The model."""

    def submit(self, request: CompletionRequest, on_text: OnText | None = None) -> Job:
        """Takes a request. on_text: called with each new piece of the text, from a thread of the engine."""

    def warm(self, request: CompletionRequest) -> object:
        """Reads a request's prompt ahead, where that can be done."""

    def accepted(self, id_: str) -> object:
        """To be told that a completion was taken."""

    def check(self) -> None:
        """Has a few tokens written, no request's. Raises whatever goes wrong with that."""

    def memory(self) -> Memory:
        """What it takes on this machine."""

    def problem(self) -> str | None:
        """What is wrong, though requests are taken; None if nothing is."""

    def facts(self) -> dict[str, Any]:
        """What health tells besides."""

    def close(self) -> None:
        """Gives up all work."""
