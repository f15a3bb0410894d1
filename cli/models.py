"""`codelm models`: what a running server serves, and changing it."""

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.console import console
from cli.server import DEFAULT_URL, ask
from codelm.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

Server = Annotated[
    str | None, typer.Option(metavar="URL", help=f"Of a `codelm serve` on this machine. Default: {DEFAULT_URL}.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's, as `codelm models list` tells it.")]


@app.callback()
def models() -> None:
    """See and change what a running server serves: no request is lost, and nothing has to be started again."""


@app.command("list")
def list_(server: Server = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models of a server, with their adapters and the memory that they take.

    Example: codelm models list
    """
    served = ask(server, "GET", "/health").get("served")
    if served is None:
        raise UserError("the server is an older one and does not tell its models", "start it again with this version")
    if as_json:
        typer.echo(json.dumps(served, ensure_ascii=False, indent=2))
    else:
        print_table(served)


@app.command()
def swap(
    name: Name,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A GGUF, or a checkpoint's or run's folder, that is to answer to that name.")
    ],
    server: Server = None,
) -> None:
    """Put a file in the place of a model's, or load one more under a new name.

    It is loaded beside the old one and has to write something first; if it cannot, the old one stays. Requests in flight
    finish with the old one.

    Example: codelm models swap nano runs/mine/export/nano-q8_0.gguf
    """
    ask(server, "PUT", f"/v1/models/{quote(name, safe='')}", {"path": str(model.absolute())})
    typer.echo(f"{name} is {model}")


@app.command()
def rollback(name: Name, server: Server = None) -> None:
    """Go back to the file before the last swap.

    Example: codelm models rollback nano
    """
    ask(server, "POST", f"/v1/models/{quote(name, safe='')}/rollback")
    path = next(one["path"] for one in ask(server, "GET", "/health")["served"] if one["name"] == name)
    typer.echo(f"{name} is {path} again")


@app.command()
def unload(name: Name, server: Server = None) -> None:
    """Free a model's memory; the next request loads it again.

    Example: codelm models unload nano
    """
    ask(server, "POST", f"/v1/models/{quote(name, safe='')}/unload")
    typer.echo(f"{name} is unloaded")


@app.command()
def adapter(
    workspace: Annotated[Path, typer.Argument(metavar="FOLDER", help="The workspace.")],
    path: Annotated[Path | None, typer.Argument(metavar="ADAPTER.gguf", help="Default: none any more.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the first model that it fits.")] = None,
    server: Server = None,
) -> None:
    """Lay a LoRA adapter over a model in the documents of a folder, or take it away.

    Example: codelm models adapter ~/src/mine runs/mine/lora/adapter.gguf
    """
    body = {"workspace": str(workspace.absolute()), "path": path and str(path.absolute()), "model": model}
    changed = ", ".join(ask(server, "PUT", "/v1/adapters", body)["models"])
    if path:
        typer.echo(f"{changed} has {path} laid over it in {workspace}")
    else:
        typer.echo(f"{changed} has none any more in {workspace}" if changed else f"no model has an adapter in {workspace}")


def print_table(served: list[dict[str, Any]]) -> None:
    """Models, a row each, with their adapters below."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for column in ("name", "state", "MB", "in flight", "languages", "file"):
        table.add_column(column, justify="right" if column in ("MB", "in flight") else "left")

    def row(*cells: object) -> None:
        table.add_row(*(Text(str(cell)) for cell in cells))

    for one in served:
        megabytes = round(sum(one["memory"].values()) / 2**20)
        row(one["name"], one["state"], megabytes, one["in_flight"], " ".join(one["languages"]), one["path"] or "")
        for laid in one["adapters"]:
            row("", laid["state"], "", "", "", f"+ {laid['path']} in {laid['workspace']}")
    out = console()
    out.print(table)
    for one in served:
        if one["failure"]:
            out.print(Text(f"{one['name']}: {one['failure']}"))
