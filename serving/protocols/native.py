"""The native protocol: LSP 3.18 `textDocument/inlineCompletion` over HTTP, with the text alongside.

Our own fields live under `codelm`, so that any LSP library can type the rest.
"""

from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException

from serving.models import Models
from serving.position import PositionEncoding, offset_at
from serving.protocols.common import ERRORS, Text, completion_of
from serving.request import (
    MAX_CANDIDATES,
    Completion,
    CompletionRequest,
    Recent,
    RecentKind,
    SourceFile,
    StopReason,
    TriggerKind,
)
from serving.stop import MAX_LINES
from serving.workspace.roots import is_local

PATH = "/v1/textDocument/inlineCompletion"
WARM = "/v1/warm"
ACCEPTED_PATH, DISMISSED_PATH = "/v1/accepted", "/v1/dismissed"
ACCEPTED = "codelm.accepted"


class Model(BaseModel):
    """camelCase outside; unknown fields are ignored, so that newer clients work with older servers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", allow_inf_nan=False)


class TextDocument(Model):
    uri: Text
    language_id: str | None = None
    version: int | None = None
    text: Text = Field(description="the whole text of the document")


class Context(Model):
    trigger_kind: TriggerKind = Field(TriggerKind.INVOKED, description="1 invoked by the user, 2 automatic while typing")


class File(Model):
    uri: Text
    text: Text


class Position(Model):
    """Counted from 0; `character` in the units of codelm.positionEncoding."""

    line: Annotated[int, Field(ge=0)]
    character: Annotated[int, Field(ge=0)]


class Range(Model):
    start: Position
    end: Position


class RecentFile(Model):
    """A file that the user opened or edited lately."""

    uri: Text
    kind: RecentKind
    range: Range | None = Field(None, description="the lines that it is about; default: all")
    text: Text | None = Field(None, description="of these lines, as the editor has them; default: as the server finds them")


class WorkspaceFolder(Model):
    uri: Text
    name: str = ""


class RequestOptions(Model):
    budget_ms: Annotated[float | None, Field(gt=0)] = Field(None, description="answer by then with what there is")
    max_lines: Annotated[int | None, Field(ge=1)] = Field(None, description="default: 1 automatic, 8 invoked")
    client: Text | None = Field(None, description="its newer requests supersede its older ones for the same document")
    files: list[File] = Field(default_factory=list, description="other files of the project, as the editor has them")
    recent: list[RecentFile] = Field(default_factory=list, description="what was opened or edited lately, the latest first")
    workspace_folders: list[WorkspaceFolder] | None = Field(None, description="as LSP's initialize has them")
    root_uri: Text | None = Field(None, description="the one folder that is open, for clients without workspace folders")
    position_encoding: PositionEncoding = PositionEncoding.UTF_16
    precision: Annotated[float | None, Field(ge=0, le=1)] = Field(
        None, description="show automatic completions only where so many of them are right; default: the server's"
    )
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = Field(1, description="texts to choose from, if so many differ")
    model: Text | None = Field(None, description="the name of the one to ask; default: that of the language, or the first")


class InlineCompletionRequest(Model):
    """The params of LSP's textDocument/inlineCompletion, the document's text, and options of ours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "textDocument": {
                        "uri": "file:///w/a.py",
                        "languageId": "python",
                        "version": 3,
                        "text": "def double(n):\n    return ",
                    },
                    "position": {"line": 1, "character": 11},
                    "context": {"triggerKind": 2},
                    "codelm": {"budgetMs": 300, "maxLines": 8, "client": "vscode-1"},
                }
            ]
        }
    )

    text_document: TextDocument
    position: Position
    context: Context = Context()
    codelm: RequestOptions = RequestOptions()


class Command(Model):
    title: str
    command: str
    arguments: list[Any]


class Item(Model):
    insert_text: str
    range: Range = Field(description="what to replace: nothing, at the cursor")
    command: Command = Field(description="to run after insertion")


class AnswerTimings(Model):
    """Token counts, and milliseconds."""

    prompt_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    predicted_tokens: int
    queue_ms: float
    prompt_ms: float
    predict_ms: float
    total_ms: float


class AnswerDetails(Model):
    id: str
    model: str
    shown: bool
    hidden_by: str | None = Field(
        None, description="why what was written is not shown: precision, attribution, dismissed, or a step of post-processing"
    )
    confidence: float = Field(description="how likely it is right; without a gate the geometric mean of token probabilities")
    stop_reason: StopReason
    timings: AnswerTimings
    attribution: list[dict[str, Any]] = []


class InlineCompletionAnswer(Model):
    """LSP's InlineCompletionList, with an item for each candidate, and what is known of the first."""

    items: list[Item]
    codelm: AnswerDetails


class Noted(Model):
    """Nothing is to be said."""


class Suggestion(Model):
    """One that was answered."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "cmpl-b473ac5362274bc0adbb9eaadc009e6a"}]})

    id: Text = Field(description="the first argument of its command `codelm.accepted`")


def to_request(body: InlineCompletionRequest) -> CompletionRequest:
    """What the body asks for. Raises ValueError if the position is not in the text."""
    text, options = body.text_document.text, body.codelm
    cursor = offset_at(text, body.position.line, body.position.character, options.position_encoding)
    return CompletionRequest(
        prefix=unix(text[:cursor]),
        suffix=unix(text[cursor:]),
        document=body.text_document.uri,
        client=options.client,
        language=body.text_document.language_id,
        path=path_of(body.text_document.uri),
        files=tuple(SourceFile(path=path_of(file.uri), text=unix(file.text)) for file in options.files),
        recent=tuple(recent_of(file) for file in options.recent),
        roots=roots_of(options),
        trigger=body.context.trigger_kind,
        budget_ms=options.budget_ms,
        max_lines=options.max_lines or MAX_LINES[body.context.trigger_kind],
        precision=options.precision,
        candidates=options.candidates,
        model=options.model,
    )


def recent_of(file: RecentFile) -> Recent:
    """What a file of `recent` stands for. A range that ends before the first character of a line does not hold it."""
    lines: tuple[int | None, int | None] = (None, None)
    if file.range:
        start, end = file.range.start.line, file.range.end
        lines = start, max(start, end.line - (end.character == 0))
    return Recent(
        path=path_of(file.uri),
        kind=file.kind,
        first_line=lines[0],
        last_line=lines[1],
        text=None if file.text is None else unix(file.text),
    )


def roots_of(options: RequestOptions) -> tuple[str, ...]:
    """The paths of the editor's folders on this machine."""
    uris = [folder.uri for folder in options.workspace_folders or ()] or [uri for uri in (options.root_uri,) if uri]
    return tuple(path_of(uri) for uri in uris if is_local(uri))


def unix(text: str) -> str:
    """A text with line ends as models know them."""
    return text.replace("\r\n", "\n")


def to_answer(body: InlineCompletionRequest, completion: Completion, model: str) -> InlineCompletionAnswer:
    """The answer, with the document's own line ends. model: its name."""
    crlf = "\r\n" in body.text_document.text

    def item(number: int, one: Completion) -> Item:
        return Item(
            insert_text=one.text.replace("\n", "\r\n") if crlf else one.text,
            range=Range(start=body.position, end=body.position),
            command=Command(title="accepted", command=ACCEPTED, arguments=[one.id, number]),
        )

    shown = [one for one in (completion, *completion.alternatives) if one.shown]
    return InlineCompletionAnswer(
        items=[item(number, one) for number, one in enumerate(shown)],
        codelm=AnswerDetails(
            id=completion.id,
            model=model,
            shown=bool(shown),
            hidden_by=None if shown else completion.hidden_by,
            confidence=completion.confidence,
            stop_reason=completion.stop_reason,
            timings=AnswerTimings.model_validate(vars(completion.timings)),
            attribution=list(completion.attribution),
        ),
    )


def path_of(uri: str) -> str:
    """The path in a document's URI, such as file:///w/a.py; other texts are taken as paths."""
    try:
        return str(PurePosixPath(unquote(urlsplit(uri).path)))
    except ValueError:
        return uri


def router(models: Models) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(tags=["native"])

    @routes.post(PATH, responses=ERRORS)
    async def inline_completion(body: InlineCompletionRequest, request: Request) -> InlineCompletionAnswer:
        """What to insert at a position of a document.

        The document's text comes with each request; the server keeps none. The answer has no item if there is nothing
        worth showing.
        """
        wanted = checked(body)
        async with models.lease(wanted) as (name, engine, answers):
            completion = await answers.finish(wanted, await completion_of(engine.submit(wanted), request))
            return to_answer(body, completion, name)

    @routes.post(WARM, status_code=202, responses=ERRORS)
    async def warm(body: InlineCompletionRequest) -> Noted:
        """Reads what a completion there would have to read, once nothing else is to be done: for a document that is opened,
        or a cursor that jumps.

        Answers at once. A completion of the same document takes its place.
        """
        models.warm(checked(body))
        return Noted()

    @routes.post(ACCEPTED_PATH, status_code=202, responses=ERRORS)
    async def accepted(body: Suggestion) -> Noted:
        """To be told that a suggestion was taken: what may come on the next line is written ahead. Answers at once."""
        models.accepted(body.id)
        return Noted()

    @routes.post(DISMISSED_PATH, status_code=202, responses=ERRORS)
    async def dismissed(body: Suggestion) -> Noted:
        """To be told that a suggestion was sent away: it is not shown again while one types along it."""
        models.dismissed(body.id)
        return Noted()

    return routes


def checked(body: InlineCompletionRequest) -> CompletionRequest:
    """What the body asks for. Raises HTTPException if the position is not in the text."""
    try:
        return to_request(body)
    except ValueError as error:
        raise HTTPException(400, f"position: {error}") from None
