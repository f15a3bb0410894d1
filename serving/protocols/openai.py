"""OpenAI's completions: `POST /v1/completions` with `suffix`, plain or streamed, and `GET /v1/models`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from serving.engine import CancelledError
from serving.job import new_id
from serving.models import Models, ServedModel
from serving.protocols.common import ERRORS, Text, completion_of, described
from serving.request import MAX_CANDIDATES, Completion, CompletionRequest, StopReason, UnavailableError

CUT_OFF = {StopReason.LENGTH, StopReason.DEADLINE}


class CompletionBody(BaseModel):
    """Of OpenAI's fields those that a greedy model can honour; the others are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"prompt": "def double(n):\n    return ", "suffix": "\n", "max_tokens": 32, "stop": ["\n"]}]
        },
    )

    prompt: Text = Field(description="the text before the cursor")
    suffix: Text | None = Field(None, description="the text after the cursor")
    model: str | None = Field(None, description="one of /v1/models; any other name is the first of them")
    max_tokens: Annotated[int | None, Field(ge=0)] = 16
    temperature: Annotated[float | None, Field(ge=0, le=2)] = Field(0.0, description="0, the default here, is greedy")
    top_p: Annotated[float | None, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int | None, Field(ge=0)] = None
    stop: Text | list[Text] | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CANDIDATES, description="choices; fewer if texts are the same")] = 1
    echo: Literal[False] | None = Field(False, description="not supported")
    stream: bool | None = False
    user: str | None = None


class Choice(BaseModel):
    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Details(BaseModel):
    """Our own field of an answer."""

    attribution: list[dict[str, Any]] = Field(description="where the text stands verbatim in the model's corpus")


class CompletionAnswer(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    codelm: Details | None = None


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "codelm"
    meta: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


def to_request(body: CompletionBody, models: Collection[str]) -> CompletionRequest:
    """What the body asks for; null means the default, as with OpenAI. models: the names that there are."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return CompletionRequest(
        prefix=body.prompt,
        suffix=body.suffix or "",
        max_tokens=16 if body.max_tokens is None else body.max_tokens,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=stop,
        candidates=body.n or 1,
        model=body.model if body.model in models else None,  # clients must name one, and may know none
    )


def usage_of(completion: Completion) -> Usage:
    """Token counts in OpenAI's words."""
    timings = completion.timings
    written = sum(one.timings.predicted_tokens for one in (completion, *completion.alternatives))
    return Usage(
        prompt_tokens=timings.prompt_tokens,
        completion_tokens=written,
        total_tokens=timings.prompt_tokens + written,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=timings.cached_tokens),
    )


def finish_reason(completion: Completion) -> Literal["stop", "length"]:
    """OpenAI's word for why it ended."""
    return "length" if completion.stop_reason in CUT_OFF else "stop"


def details_of(completion: Completion) -> Details | None:
    """Where the text stands in the corpus, if anywhere."""
    return Details(attribution=list(completion.attribution)) if completion.attribution else None


async def events(models: Models, request: CompletionRequest) -> AsyncIterator[str]:
    """The stream's server-sent events. Each has a choice, the last one also the usage: some clients rely on that."""
    created, stream_id = int(time.time()), new_id()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    model = ""

    def put(text: str | None) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, text)

    def event(choice: Choice, completion: Completion | None = None) -> str:
        chunk = CompletionAnswer(id=stream_id, created=created, model=model, choices=[choice])
        if completion:
            chunk = chunk.model_copy(update={"usage": usage_of(completion), "codelm": details_of(completion)})
        left_out = {name for name in ("usage", "codelm") if getattr(chunk, name) is None}
        return f"data: {chunk.model_dump_json(exclude=left_out)}\n\n"

    try:
        async with models.lease(request) as (model, engine, answers):
            job = engine.submit(request, on_text=None if answers.holds_back else put)
            try:
                job.future.add_done_callback(lambda _: put(None))
                while (text := await pieces.get()) is not None:
                    yield event(Choice(text=text, finish_reason=None))
                completion = await answers.finish(job.request, job.future.result())
                rest = completion.text if answers.holds_back and completion.shown else ""
                yield event(Choice(text=rest, finish_reason=finish_reason(completion)), completion)
            finally:
                job.cancel()  # the client may have hung up
    except CancelledError:
        return
    except Exception as error:
        down = isinstance(error, UnavailableError)
        message = str(error) if down else "the model failed; the server's log has more"
        told = {"code": 503 if down else 500, "message": message, "type": "server_error"}
        yield f"data: {json.dumps({'error': told})}\n\n"
    yield "data: [DONE]\n\n"


def router(models: Models) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/completions", responses=ERRORS, response_model=CompletionAnswer)
    async def completions(body: CompletionBody, request: Request) -> CompletionAnswer | StreamingResponse:
        """The text between `prompt` and `suffix`. With `stream`: server-sent events that end with `[DONE]`."""
        wanted = to_request(body, models.names)
        if body.stream and wanted.candidates > 1:
            raise HTTPException(400, "n: only 1 with stream")
        if body.stream:
            return StreamingResponse(events(models, wanted), media_type="text/event-stream")
        async with models.lease(wanted) as (name, engine, answers):
            completion = await answers.finish(wanted, await completion_of(engine.submit(wanted), request))
        text = completion.text if completion.shown or not answers.holds_back else ""
        return CompletionAnswer(
            id=completion.id,
            created=int(time.time()),
            model=name,
            choices=[
                Choice(text=text, finish_reason=finish_reason(completion)),
                *(
                    Choice(index=index, text=one.text, finish_reason=finish_reason(one))
                    for index, one in enumerate(completion.alternatives, start=1)
                ),
            ],
            usage=usage_of(completion),
            codelm=details_of(completion),
        )

    @routes.get("/v1/models")
    async def list_models() -> ModelList:
        """The models that are served, the default first."""
        return ModelList(data=[entry_of(model) for model in models])

    @routes.get("/v1/models/{name}", responses=described({404: "There is no model of that name."}))
    async def get_model(name: str) -> ModelEntry:
        """One of them."""
        return entry_of(models.named(name))

    return routes


def entry_of(model: ServedModel) -> ModelEntry:
    """A model and what its bundle says."""
    metadata = model.metadata
    facts = metadata.model_dump(mode="json", exclude_none=True, exclude={"gate"})
    meta = {"n_ctx": metadata.context_length, "codelm": facts}
    return ModelEntry(id=model.name, created=model.created, meta=meta)
