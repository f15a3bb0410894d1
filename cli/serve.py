"""`codelm serve`: completions of a model, over HTTP."""

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codelm.errors import UserError
from serving import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from serving.answers import Answers
    from serving.attribution import AttributionMode
    from serving.models import Models
    from serving.models.opening import Opening
    from serving.workspace.relevance import Source

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL",
            help="GGUFs made by `codelm export`, or checkpoints, folders of trainings or runs; the first one answers what no"
            " other is asked for. Default: the model that codelm brings along.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is for this machine only.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = DEFAULT_PORT,
    threads: Annotated[
        int | None, typer.Option(min=1, help="At most; half of them where others use the cores. Default: the physical cores.")
    ] = None,
    workspace: Annotated[
        bool,
        typer.Option("--workspace/--no-workspace", help="Read and index the project's folder, if only this machine can ask."),
    ] = True,
    sources: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Of chunks of other files in the prompt: identifiers, imports, opened, edited, siblings; or all, or none.",
        ),
    ] = "all",
    mixture: Annotated[
        bool, typer.Option("--mixture/--no-mixture", help="Mix the project's own text into the model's probabilities.")
    ] = True,
    healing: Annotated[
        bool, typer.Option("--healing/--no-healing", help="Read a half-typed word as the beginning of its token.")
    ] = True,
    speculation: Annotated[
        bool, typer.Option("--speculation/--no-speculation", help="Guess tokens ahead; the text is the same, the time is not.")
    ] = True,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Show completions while typing only where so many are right. Default: show all."),
    ] = None,
    attribution: Annotated[
        str | None,
        typer.Option(
            metavar="off|warn|block",
            help="Text that stands verbatim in the model's corpus. Default: warn, if the index lies beside the model.",
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANGUAGE=NAME", help="Which model answers a language, by LSP id or file extension. May be repeated."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER.gguf=FOLDER",
            help="A LoRA adapter to lay over its model in the documents of a folder. May be repeated.",
        ),
    ] = None,
    unload_after: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="MINUTES", help="Free a model that was not asked for so long; the next request loads it again."
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A llama-server, vLLM or OpenAI-compatible engine that writes; MODEL is then its bundle or tokenizer.json.",
        ),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Completions to work on at once.")] = 4,
    kv_memory: Annotated[
        int, typer.Option(min=1, metavar="MB", help="For what has been read of documents, so that it is not read again.")
    ] = 256,
    draft: Annotated[
        Path | None,
        typer.Option(
            metavar="DRAFT",
            help="A smaller model of the same tokenizer, which guesses ahead. Default: the one that a model names, if any.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="For a checkpoint. Default: cuda, if it is there.")
    ] = None,
    load_in: Annotated[
        str | None, typer.Option(metavar="8bit|4bit", help="For a checkpoint: its weights in so many bits, by bitsandbytes.")
    ] = None,
) -> None:
    """Serve completions of one or more models to editors and other programs until Ctrl-C.

    Everything else it needs to know is in the files, or in a checkpoint's run. `codelm models` changes what a running server
    serves. The API is described at /docs of the printed address.

    Examples: codelm serve

    codelm serve run/export/nano-q8_0.gguf --precision 0.6

    codelm serve all.gguf rust=special.gguf --route rust=rust --adapter lora/adapter.gguf=src/mine --unload-after 30

    codelm serve run/pretrain/checkpoint-1000 --device cuda

    codelm serve run/export/nano-q8_0.gguf --upstream http://10.0.0.7:8080
    """
    if draft and not speculation:
        raise UserError("--draft guesses ahead, which --no-speculation forbids", "leave one of them out")
    listener = listen(host, port)  # before the model is loaded: a port in use should not cost that time

    import asyncio

    import uvicorn

    from serving.app import create_app
    from serving.attribution import AttributionMode
    from serving.heap import settle, trim_now_and_then
    from serving.local import is_loopback

    modes = [mode.value for mode in AttributionMode]
    if attribution is not None and attribution not in modes:
        raise UserError(f"--attribution {attribution} is none of {', '.join(modes)}", "give one of them")
    mode = AttributionMode(attribution) if attribution else None
    chosen = sources_of(sources)
    settle()
    if upstream:
        if (models and len(models) > 1) or route or adapter or unload_after:
            raise UserError("--upstream is of one model, which is elsewhere", "leave out other models and what is said of them")
        served = behind(upstream, models[0] if models else None, precision, mode)
    else:
        if draft and models and len(models) > 1:
            raise UserError("--draft is of one model", "serve the models on ports of their own")
        from serving.models.opening import Opening

        opening = Opening(
            threads=threads,
            parallel=parallel,
            kv_memory=kv_memory,
            draft=draft,
            read_files=workspace and is_loopback(host),
            sources=chosen,
            mixture=mixture,
            healing=healing,
            speculation=speculation,
            precision=precision,
            attribution=mode,
            device=device,
            load_in=load_in,
        )
        served = on_this_machine(opening, models or [], route or [], adapter or [], unload_after)
    shown_host = f"[{host}]" if ":" in host else host
    ready = f"codelm: {', '.join(served.names)} at http://{shown_host}:{listener.getsockname()[1]} (Ctrl-C ends it)"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.trimming = asyncio.create_task(trim_now_and_then())
            typer.echo(ready)

    config = uvicorn.Config(
        create_app(served, host), log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="off"
    )
    try:
        asyncio.run(Server(config).serve([listener]))
    except KeyboardInterrupt:
        pass
    finally:
        served.close()


def sources_of(names: str) -> "frozenset[Source]":
    """The sources of chunks that --sources names. Raises UserError if there is no such one."""
    from serving.workspace.relevance import ALL, Source

    if names in ("all", "none"):
        return ALL if names == "all" else frozenset()
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in list(Source)]:
        raise UserError(f"--sources: {unknown[0]!r} is no source", f"give some of {', '.join(Source)}, or all, or none")
    return frozenset(map(Source, wanted))


def on_this_machine(
    opening: "Opening", files: list[str], routes: list[str], adapters: list[str], unload_after: float | None
) -> "Models":
    """The models, loaded. files: [NAME=]PATH. unload_after: minutes. Raises UserError if one cannot be served as is asked."""
    from codelm.default_model.locate import default_model
    from serving.models import Models

    wanted = [named_path(file) for file in files] or [(None, default_model())]
    if (opening.device or opening.load_in) and not any(path.is_dir() for _, path in wanted):
        raise UserError(
            "--device and --load-in are for checkpoints, and no model is a folder",
            "leave them off: a GGUF is quantised already, and runs on the device that llama.cpp was built for",
        )
    served = Models(opening, None if unload_after is None else unload_after * 60)
    try:
        for name, path in wanted:
            model = served.load(path.absolute(), name)
            for loaded in model.loaded():
                tell_of_precision(loaded.answers, model.name if len(files) > 1 else "the model")
        for one in routes:
            served.route(*pair(one, "--route", "python=NAME"))
        for one in adapters:
            adapter, folder = pair(one, "--adapter", "adapter.gguf=FOLDER")
            served.adapt(Path(folder), Path(adapter).absolute())
    except BaseException:
        served.close()
        raise
    return served


def named_path(file: str) -> tuple[str | None, Path]:
    """The name, if there is one, and the path of [NAME=]PATH."""
    name, _, path = file.partition("=")
    named = path and "/" not in name and not Path(file).exists()
    if named and not name:
        raise UserError(f"{file}: the name is missing", "write NAME=PATH, or the path alone")
    return (name, Path(path)) if named else (None, Path(file))


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """Both sides of the last equals sign. Raises UserError if there is none."""
    left, _, right = text.rpartition("=")
    if not (left and right):
        raise UserError(f"{option} {text}: half of it is missing", f"write it as {option} {example}")
    return left, right


def behind(url: str, model: str | None, precision: float | None, attribution: "AttributionMode | None") -> "Models":
    """The model behind a URL. model: what it serves, so that prompts can be built here. Raises UserError."""
    from serving.answers import Answers
    from serving.attribution import AttributionMode, folder_of, open_attributor
    from serving.models import Models
    from serving.upstream import Upstream
    from serving.vocabulary import open_vocabulary

    if model is None and attribution not in (None, AttributionMode.OFF):
        raise UserError("--attribution needs the model's folder", "name the model")
    engine = Upstream(url, open_vocabulary(Path(model)) if model else None)
    try:
        attributor = open_attributor(folder_of(Path(model)), attribution) if model else None
    except BaseException:
        engine.close()
        raise
    answers = Answers(engine.model.metadata.gate, precision, attributor, engine.suggestions)
    tell_of_precision(answers, "the model")
    return Models.of(engine, answers)


def tell_of_precision(answers: "Answers", name: str) -> None:
    """Says so if the precision that is asked for cannot be had."""
    precision, gate = answers.precision, answers.gate
    if precision is not None and gate is None:
        typer.echo(f"codelm: {name} has no gate, so --precision does nothing: run `codelm calibrate`", err=True)
    elif precision is not None and gate and gate.threshold(precision) is None:
        best = gate.best_precision
        typer.echo(
            f"codelm: precision {precision:.0%} is out of reach of {name}, the highest is {best:.0%}:"
            " nothing is shown while typing",
            err=True,
        )


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
