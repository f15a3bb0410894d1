"""The HTTP server: the protocols' routes, health, and errors in one form."""

import platform
from collections.abc import Sequence
from typing import Any

import psutil
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codelm import __version__
from codelm.errors import UserError
from serving.local import is_loopback, name_of_host
from serving.models import Models, UnknownModelError
from serving.protocols import models as model_routes
from serving.protocols import native, openai
from serving.request import UnavailableError

OF_DEFAULT = ("gate", "attribution", "workspaces", "mixture", "upstream")
"""What health tells of the default model apart from its place among the models."""
BODY_LIMIT = 4 * 2**20
"""Bytes of a request's body."""

ERROR_TYPES = {404: "not_found_error", 409: "superseded_error", 413: "request_too_large_error"}

DESCRIPTION = """Code completions from a small language model on this machine.

Errors of every route: `{"error": {"code": 400, "message": "…", "type": "…"}}`.
"""


def create_app(models: Models, host: str = "127.0.0.1") -> FastAPI:
    """The application around models. host: what it is bound to; on loopback it answers local names only."""
    app = FastAPIOffline(  # the API page must not load its scripts from a CDN
        redoc_url=None,
        title="codelm",
        version=__version__,
        description=DESCRIPTION,
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.include_router(native.router(models))
    app.include_router(openai.router(models))
    app.include_router(model_routes.router(models))

    @app.get("/v1/health", tags=["health"])
    @app.get("/health", tags=["health"])
    async def health() -> dict[str, Any]:
        """Answers as soon as the models are loaded; also in the terms of clients that look for a model's name."""
        problem, counts, served = models.problem(), models.counts(), models.facts()
        name, default = models.default.name, served[0]
        device = default.get("device", "cpu")  # of an upstream it is not known
        local = {"model_id": name, "device": device, "cuda_devices": []}
        return {
            "status": "degraded" if problem else "ok",
            "problem": problem,
            "model": name,
            "requests": {
                "completed": counts["completed"],
                "cancelled": counts["cancelled"],
                "failed": counts["failed"],
                "predictedTokens": counts["predicted_tokens"],
            },
            **{key: default[key] for key in OF_DEFAULT if key in default},
            "served": served,
            "chat_model": None,
            "device": device,
            "cuda_devices": [],
            "models": {"completion": {"local": local}},
            "arch": platform.machine(),
            "cpu_info": platform.processor(),
            "cpu_count": psutil.cpu_count(),
            "version": {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": f"v{__version__}"},
        }

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(400, describe(error.errors()))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        not_utf8 = isinstance(error.__cause__, UnicodeDecodeError)
        return error_answer(error.status_code, "the body is not UTF-8" if not_utf8 else error.detail, error.headers)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> JSONResponse:
        return error_answer(404 if isinstance(error, UnknownModelError) else 400, str(error))

    @app.exception_handler(UnavailableError)
    async def unavailable(request: Request, error: UnavailableError) -> JSONResponse:
        return error_answer(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return error_answer(500, "the server failed; its log has more")

    app.openapi = lambda: schema_of(app)  # type: ignore[method-assign]
    app.add_middleware(BodyLimit)
    if is_loopback(host):
        app.add_middleware(LocalNamesOnly)
    return app


def error_answer(status: int, message: str, headers: Any = None) -> JSONResponse:
    """An error in the form that OpenAI's and llama.cpp's clients read."""
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return JSONResponse({"error": {"code": status, "message": message, "type": kind}}, status, headers)


def describe(errors: Sequence[Any]) -> str:
    """One readable message for what is wrong with a request, with each field's path."""
    if any(error["type"] == "json_invalid" for error in errors):
        return f"the body is not JSON: {errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
    if any(error["loc"] == ("body",) for error in errors):
        return "the body is not a JSON object, or is sent without Content-Type: application/json"
    return "; ".join(f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}" for error in errors)


def schema_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, without FastAPI's own form of validation errors, which we do not use."""
    schema = FastAPI.openapi(app)
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return schema


class BodyLimit:
    """Refuses bodies over BODY_LIMIT, whether they say their length or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                raise too_large
            return message

        too_large = HTTPException(413, f"the body is over {BODY_LIMIT // 2**20} MB; send less of the file")
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if int(length) > BODY_LIMIT:  # the HTTP parser lets only digits through
            await error_answer(413, too_large.detail)(scope, receive, send)
        else:
            await self.app(scope, limited, send)


class LocalNamesOnly:
    """Refuses requests sent to other names than this machine's own.

    A web page could else rebind its own name to 127.0.0.1 and read the answers as if they were its own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = name_of_host(host)
            if not is_loopback(name):
                answer = error_answer(403, f"this server is for this machine only, not for the name {name!r}")
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)
