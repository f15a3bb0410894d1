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

from serving.engine import Engine
from serving.position import PositionEncoding, offset_at
from serving.protocols.common import ERRORS, Text, completion_of
from serving.request import Completion, CompletionRequest, SourceFile, StopReason, TriggerKind
from serving.stop import MAX_LINES

PATH = "/v1/textDocument/inlineCompletion"
ACCEPTED = "codelm.accepted"


class Model(BaseModel):
    """camelCase outside; unknown fields are ignored, so that newer clients work with older servers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", allow_inf_nan=False)


class TextDocument(Model):
    uri: Text
    language_id: str | None = None
    version: int | None = None
    text: Text = Field(description="the whole text of the document")


class Position(Model):
    """Counted from 0; `character` in the units of codelm.positionEncoding."""

    line: Annotated[int, Field(ge=0)]
    character: Annotated[int, Field(ge=0)]


class Context(Model):
    trigger_kind: TriggerKind = Field(TriggerKind.INVOKED, description="1 invoked by the user, 2 automatic while typing")


class File(Model):
    uri: Text
    text: Text


class RequestOptions(Model):
    budget_ms: Annotated[float | None, Field(gt=0)] = Field(None, description="answer by then with what there is")
    max_lines: Annotated[int | None, Field(ge=1)] = Field(None, description="default: 1 automatic, 8 invoked")
    client: Text | None = Field(None, description="its newer requests supersede its older ones for the same document")
    files: list[File] = Field(default_factory=list, description="other files; this version does not read them yet")
    position_encoding: PositionEncoding = PositionEncoding.UTF_16


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


class Range(Model):
    start: Position
    end: Position


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
    confidence: float = Field(description="geometric mean of the token probabilities")
    stop_reason: StopReason
    timings: AnswerTimings
    attribution: list[dict[str, Any]] = []


class InlineCompletionAnswer(Model):
    """LSP's InlineCompletionList, with at most one item, and what is known of it."""

    items: list[Item]
    codelm: AnswerDetails


def to_request(body: InlineCompletionRequest) -> CompletionRequest:
    """What the body asks for. Raises ValueError if the position is not in the text."""
    text, options = body.text_document.text, body.codelm
    cursor = offset_at(text, body.position.line, body.position.character, options.position_encoding)
    return CompletionRequest(
        prefix=text[:cursor].replace("\r\n", "\n"),
        suffix=text[cursor:].replace("\r\n", "\n"),
        document=body.text_document.uri,
        client=options.client,
        language=body.text_document.language_id,
        path=path_of(body.text_document.uri),
        files=tuple(SourceFile(path=path_of(file.uri), text=file.text) for file in options.files),
        trigger=body.context.trigger_kind,
        budget_ms=options.budget_ms,
        max_lines=options.max_lines or MAX_LINES[body.context.trigger_kind],
    )


def to_answer(body: InlineCompletionRequest, completion: Completion, model: str) -> InlineCompletionAnswer:
    """The answer, with the document's own line ends. model: its name."""
    text = completion.text.replace("\n", "\r\n") if "\r\n" in body.text_document.text else completion.text
    item = Item(
        insert_text=text,
        range=Range(start=body.position, end=body.position),
        command=Command(title="accepted", command=ACCEPTED, arguments=[completion.id, 0]),
    )
    return InlineCompletionAnswer(
        items=[item] if completion.shown else [],
        codelm=AnswerDetails(
            id=completion.id,
            model=model,
            shown=completion.shown,
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


def router(engine: Engine) -> APIRouter:
    """The protocol's one route."""
    routes = APIRouter(tags=["native"])

    @routes.post(PATH, responses=ERRORS)
    async def inline_completion(body: InlineCompletionRequest, request: Request) -> InlineCompletionAnswer:
        """What to insert at a position of a document.

        The document's text comes with each request; the server keeps none. The answer has no item if there is nothing
        worth showing.
        """
        try:
            wanted = to_request(body)
        except ValueError as error:
            raise HTTPException(400, f"position: {error}") from None
        completion = await completion_of(engine.submit(wanted), request)
        return to_answer(body, completion, engine.model.metadata.name)

    return routes
