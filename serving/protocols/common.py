"""What the adapters share: errors that the client understands, and giving up when it hangs up."""

import asyncio
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving.engine import CancelledError, Job
from serving.request import Completion, UnavailableError

CLIENT_CLOSED_REQUEST = 499
"""The status, by nginx's custom, of an answer that nobody waits for."""


def unicode_text(text: str) -> str:
    """The text itself. Raises ValueError if it holds half of a surrogate pair, which JSON can and Unicode cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(unicode_text)]


class ErrorDetail(BaseModel):
    code: int = Field(description="the HTTP status")
    message: str
    type: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"error": {"code": 400, "message": "prompt: Field required", "type": "invalid_request_error"}}]
        }
    )

    error: ErrorDetail


def described(statuses: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: what it may answer besides a success."""
    return {status: {"model": ErrorAnswer, "description": text} for status, text in statuses.items()}


ERRORS = described(
    {
        400: "The request is wrong; the message says where.",
        404: "There is no model of the name that is given.",
        409: "A newer request of this client for this document took its place.",
        413: "The body is too large.",
        503: "No model is there to answer; the message says why.",
    }
)


async def completion_of(job: Job, request: Request) -> Completion:
    """The job's completion. If the client hangs up first, the job is cancelled.

    Raises HTTPException: 409 if a newer request took the job's place, 499 if the client is gone, 503 if an upstream is down.
    """
    future = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client closed the connection")
        return future.result()
    except CancelledError:
        raise HTTPException(409, "a newer request for this document took its place") from None
    except UnavailableError as error:
        raise HTTPException(503, str(error)) from None
    finally:
        job.cancel()
        gone.cancel()
        future.cancel()


async def hung_up(request: Request) -> None:
    """Returns when the client closes the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
