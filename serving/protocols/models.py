"""Changing what is served while it is: load, swap, roll back, unload, and adapters of workspaces. For this machine alone."""

from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from codelm.errors import UserError
from serving.local import is_loopback, name_of_host
from serving.models import Models
from serving.protocols.common import Text, described

ERRORS = described(
    {
        400: "It cannot be done, and nothing has changed; the message says why.",
        403: "The request is not one of a program on this machine.",
        404: "There is no model of that name.",
    }
)


class ModelFile(BaseModel):
    """What is to answer to a name."""

    model_config = ConfigDict(extra="forbid")

    path: Text = Field(description="the whole path of a GGUF, or of a folder with a checkpoint, on the server's machine")
    languages: list[Text] = Field(
        default_factory=list, description="LSP ids or file extensions of documents that it is to answer from now on"
    )


class WorkspaceAdapter(BaseModel):
    """What is to be laid over a model in the documents of a folder."""

    model_config = ConfigDict(extra="forbid")

    workspace: Text = Field(description="the whole path of a folder on the server's machine")
    path: Text | None = Field(description="the whole path of an adapter.gguf; null takes away what is laid over there")
    model: Text | None = Field(None, description="its name; default: the first that the adapter fits, or all to take away")


class Changed(BaseModel):
    """The names of the models that are other than before."""

    models: list[str]


def local_programs_only(request: Request) -> None:
    """Raises HTTPException for requests from other machines and from web pages of other servers than this one.

    Whoever may send these can have any file read that the server may read.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if request.client is None or not is_loopback(request.client.host) or not is_loopback(name_of_host(host)):
        raise HTTPException(403, "models are changed from this machine only")
    if origin is not None and urlsplit(origin).netloc != host:
        raise HTTPException(403, "models are not changed by pages of other servers")


def router(models: Models) -> APIRouter:
    """The routes. They answer when it is done."""
    routes = APIRouter(tags=["models"], dependencies=[Depends(local_programs_only)])

    @routes.put("/v1/models/{name}", responses=ERRORS)
    def put(name: str, body: ModelFile) -> Changed:
        """Has a file answer to a name: a new one is loaded; else the file takes the place of the one before once it is loaded
        and has written something. Requests in flight finish with the one before.
        """
        models.put(name, whole(body.path), body.languages)
        return Changed(models=[name])

    @routes.post("/v1/models/{name}/rollback", responses=ERRORS)
    def roll_back(name: str) -> Changed:
        """Goes back to the file before, in the same way."""
        models.roll_back(name)
        return Changed(models=[name])

    @routes.post("/v1/models/{name}/unload", responses=ERRORS)
    def unload(name: str) -> Changed:
        """Frees the model's memory when its requests in flight are answered. The next request loads it again."""
        models.unload(name)
        return Changed(models=[name])

    @routes.put("/v1/adapters", responses=ERRORS)
    def adapt(body: WorkspaceAdapter) -> Changed:
        """Lays a LoRA adapter over a model for the documents in a folder, or takes it away."""
        adapter = None if body.path is None else whole(body.path)
        changed = models.adapt(whole(body.workspace), adapter, body.model)
        return Changed(models=[model.name for model in changed])

    return routes


def whole(path: str) -> Path:
    """The path. Raises UserError if it is relative."""
    if not Path(path).is_absolute():
        raise UserError(f"{path} is a relative path", "give the whole path: the server stands elsewhere")
    return Path(path)
