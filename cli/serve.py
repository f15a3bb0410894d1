"""`codelm serve`: completions of a GGUF, over HTTP."""

import errno
import socket
from pathlib import Path
from typing import Annotated

import typer

from codelm.errors import UserError
from serving import DEFAULT_HOST, DEFAULT_PORT

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL.gguf", help="A file made by `codelm export`. Default: the model that codelm brings along."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is for this machine only.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = DEFAULT_PORT,
    threads: Annotated[
        int | None, typer.Option(min=1, help="To read prompts with; half of them write. Default: the physical cores.")
    ] = None,
) -> None:
    """Serve completions of a GGUF to editors and other programs until Ctrl-C.

    Everything else it needs to know is in the file. The API is described at /docs of the printed address.

    Examples: codelm serve

    codelm serve run/export/nano-q8_0.gguf
    """
    listener = listen(host, port)  # before the model is loaded: a port in use should not cost that time

    import asyncio

    import uvicorn

    from codelm.default_model.locate import default_model
    from serving.app import create_app
    from serving.engine import Engine
    from serving.llamacpp import LlamaCpp

    engine = Engine(LlamaCpp(model or default_model(), threads))
    shown_host = f"[{host}]" if ":" in host else host
    ready = f"codelm: {engine.model.metadata.name} at http://{shown_host}:{listener.getsockname()[1]} (Ctrl-C ends it)"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            typer.echo(ready)

    config = uvicorn.Config(
        create_app(engine, host), log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="off"
    )
    try:
        asyncio.run(Server(config).serve([listener]))
    except KeyboardInterrupt:
        pass
    finally:
        engine.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises UserError if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} on {host} is in use", "stop what uses it or give another --port") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights than you have", "give a --port over 1023") from None
        raise UserError(f"cannot listen on {host}: {error.strerror}", "give an address of this machine as --host") from None
