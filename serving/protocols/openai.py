"""OpenAI's completions: `POST /v1/completions` with `suffix`, plain or streamed, and `GET /v1/models`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from serving.engine import CancelledError, Engine, Job
from serving.protocols.common import ERRORS, Text, completion_of
from serving.request import Completion, CompletionRequest, StopReason

CUT_OFF = {StopReason.LENGTH, StopReason.DEADLINE}


class CompletionBody(BaseModel):
    """Of OpenAI's fields those that a single greedy model can honour; the others are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"prompt": "def double(n):\n    return ", "suffix": "\n", "max_tokens": 32, "stop": ["\n"]}]
        },
    )

    prompt: Text = Field(description="the text before the cursor")
    suffix: Text | None = Field(None, description="the text after the cursor")
    model: str | None = Field(None, description="ignored: the server has one model")
    max_tokens: Annotated[int | None, Field(ge=0)] = 16
    temperature: Annotated[float | None, Field(ge=0, le=2)] = Field(0.0, description="0, the default here, is greedy")
    top_p: Annotated[float | None, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int | None, Field(ge=0)] = None
    stop: Text | list[Text] | None = None
    n: Annotated[int | None, Field(ge=1, le=1, description="only 1")] = 1
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


class CompletionAnswer(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "codelm"
    meta: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


def to_request(body: CompletionBody) -> CompletionRequest:
    """What the body asks for; null means the default, as with OpenAI."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return CompletionRequest(
        prefix=body.prompt,
        suffix=body.suffix or "",
        max_tokens=16 if body.max_tokens is None else body.max_tokens,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=stop,
    )


def usage_of(completion: Completion) -> Usage:
    """Token counts in OpenAI's words."""
    timings = completion.timings
    return Usage(
        prompt_tokens=timings.prompt_tokens,
        completion_tokens=timings.predicted_tokens,
        total_tokens=timings.prompt_tokens + timings.predicted_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=timings.cached_tokens),
    )


def finish_reason(completion: Completion) -> Literal["stop", "length"]:
    """OpenAI's word for why it ended."""
    return "length" if completion.stop_reason in CUT_OFF else "stop"


async def events(job: Job, pieces: "asyncio.Queue[str | None]", model: str) -> AsyncIterator[str]:
    """The stream's server-sent events. Each has a choice, the last one also the usage: some clients rely on that."""
    created = int(time.time())
    stream_id = f"cmpl-{id(job):x}{created:x}"

    def event(choice: Choice, usage: Usage | None = None) -> str:
        chunk = CompletionAnswer(id=stream_id, created=created, model=model, choices=[choice], usage=usage)
        return f"data: {chunk.model_dump_json(exclude={'usage'} if usage is None else None)}\n\n"

    try:
        while (text := await pieces.get()) is not None:
            yield event(Choice(text=text, finish_reason=None))
        try:
            completion = job.future.result()
            yield event(Choice(text="", finish_reason=finish_reason(completion)), usage_of(completion))
        except CancelledError:
            return
        except Exception:
            error = {"code": 500, "message": "the model failed; the server's log has more", "type": "server_error"}
            yield f"data: {json.dumps({'error': error})}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        job.cancel()  # the client may have hung up


def router(engine: Engine) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(tags=["OpenAI"])
    metadata = engine.model.metadata
    started = int(time.time())

    @routes.post("/v1/completions", responses=ERRORS, response_model=CompletionAnswer)
    async def completions(body: CompletionBody, request: Request) -> CompletionAnswer | StreamingResponse:
        """The text between `prompt` and `suffix`. With `stream`: server-sent events that end with `[DONE]`."""
        wanted = to_request(body)
        if not body.stream:
            completion = await completion_of(engine.submit(wanted), request)
            return CompletionAnswer(
                id=completion.id,
                created=int(time.time()),
                model=metadata.name,
                choices=[Choice(text=completion.text, finish_reason=finish_reason(completion))],
                usage=usage_of(completion),
            )
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def put(text: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        job = engine.submit(wanted, on_text=put)
        job.future.add_done_callback(lambda _: put(None))
        return StreamingResponse(events(job, pieces, metadata.name), media_type="text/event-stream")

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """The one model that is served."""
        meta = {"n_ctx": metadata.context_length, "codelm": metadata.model_dump(mode="json", exclude_none=True)}
        return ModelList(data=[ModelEntry(id=metadata.name, created=started, meta=meta)])

    return routes
