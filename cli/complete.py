"""`codelm complete`: one completion, from a running server or straight from a model."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.server import DEFAULT_URL, NoServerError, ask
from codelm.errors import UserError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

PLACE = re.compile(r"(?P<path>.+):(?P<line>\d+):(?P<column>\d+)", re.DOTALL)
TIMEOUT_SECONDS = 120


@app.command()
def complete(
    place: Annotated[
        str,
        typer.Argument(metavar="FILE:LINE:COL", help="Counted from 1, columns in characters, as editors show them."),
    ],
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="A GGUF, a checkpoint, or a run to load, instead of a running server.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"Default: {DEFAULT_URL}, and if none runs there, the model that codelm brings along.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer of the API.")] = False,
    max_lines: Annotated[int, typer.Option(min=1, help="Lines to write at most.")] = 8,
) -> None:
    """Print what the model would write at a place in a file.

    Column 1 is before a line's first character; one more than the line has is its end.

    Example: codelm complete src/app.py:12:5 --model run/export/nano-q8_0.gguf
    """
    if model and server:
        raise UserError("--model and --server are given both", "give one of them")
    body = request_body(place, max_lines)
    answer = answer_of_model(model, body) if model else answer_of_server(server, body)
    if answer is None:  # nothing was named, and no server runs
        answer = answer_of_model(found_default_model(), body)
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    elif answer["items"]:
        typer.echo(answer["items"][0]["insertText"])


def request_body(place: str, max_lines: int) -> dict[str, Any]:
    """The native API's request for a place. Raises UserError if there is no such place."""
    from serving.position import PositionEncoding, offset_at

    match = PLACE.fullmatch(place)
    if not match:
        raise UserError(f"{place} is not FILE:LINE:COL", "give a place such as src/app.py:12:5")
    path, line, column = Path(match["path"]), int(match["line"]), int(match["column"])
    text = read_text(path)
    if line < 1 or column < 1:
        raise UserError(f"{place}: lines and columns begin at 1", "give a place such as src/app.py:12:5")
    try:
        offset_at(text, line - 1, 0)
    except ValueError:
        last = len(re.findall(r"\r\n|\n|\r", text)) + 1
        raise UserError(f"{path} has no line {line}", f"give a line from 1 to {last}") from None
    try:
        offset_at(text, line - 1, column - 1, PositionEncoding.UTF_32)
    except ValueError:
        length = len(re.split(r"\r\n|\n|\r", text)[line - 1])
        raise UserError(f"line {line} of {path} has no column {column}", f"give a column from 1 to {length + 1}") from None
    return {
        "textDocument": {"uri": path.resolve().as_uri(), "text": text},
        "position": {"line": line - 1, "character": column - 1},
        "context": {"triggerKind": 1},
        "codelm": {"maxLines": max_lines, "positionEncoding": "utf-32"},
    }


def read_text(path: Path) -> str:
    """A source file's text, with its line ends. Raises UserError if it is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "give the path of a source file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give the path of a source file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path} is not UTF-8 text", "give a source file, saved as UTF-8")
    return text


def answer_of_model(path: Path, body: dict[str, Any]) -> dict[str, Any]:
    """The native API's answer, without a server. Raises UserError if the model cannot be loaded."""
    import asyncio

    from serving.answers import Answers
    from serving.engine import Engine
    from serving.open_model import open_model
    from serving.protocols import native

    request = native.InlineCompletionRequest.model_validate(body)
    engine = Engine(open_model(path, sequences=1))
    try:
        wanted = native.to_request(request)
        answers = Answers(engine.model.metadata.gate)
        completion = asyncio.run(answers.finish(wanted, engine.submit(wanted).future.result()))
        return native.to_answer(request, completion, engine.model.metadata.name).model_dump(mode="json", by_alias=True)
    finally:
        engine.close()


def found_default_model() -> Path:
    """The model that codelm brings along. Raises UserError if it does not, or if it is damaged."""
    from codelm.default_model.locate import default_model

    try:
        return default_model()
    except UserError as error:
        raise UserError(
            f"no server runs at {DEFAULT_URL}, no model is given, and {error.message}",
            "start one with `codelm serve MODEL.gguf`, or give --model MODEL.gguf",
        ) from None


def answer_of_server(url: str | None, body: dict[str, Any]) -> dict[str, Any] | None:
    """The native API's answer of a server; None if none was named and none runs at the default address.

    Raises UserError if a server that was named does not answer, or if one does not answer as it should.
    """
    try:
        answer = ask(url, "POST", "/v1/textDocument/inlineCompletion", body, TIMEOUT_SECONDS)
    except NoServerError:
        if url is None:
            return None
        raise
    if not isinstance(answer.get("items"), list):
        raise UserError(f"{url or DEFAULT_URL} is not a codelm server", "check --server")
    return answer
