"""The entry point: a table of commands, each imported when it runs, and the one place where errors become exit codes."""

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from codelm import __version__
from codelm.errors import UserError

COMMANDS = {
    "quickstart": "The whole way: a folder of code in, a served completion out.",
    "doctor": "What this machine has, what is missing, and how to mend it.",
    "corpus": "Source code → clean, licensed, deduplicated rows.",
    "tokenizer": "Train the byte-level BPE, encode the corpus.",
    "train": "Train a model on the tokens of a run.",
    "runs": "Look at trainings: list, show, compare, watch.",
    "evaluate": "Bits per byte and exact lines on held-out files, beside baselines.",
    "export": "Checkpoint → f16, Q8_0 and Q4_K_M GGUF.",
    "calibrate": "Teach a GGUF when it is right, so that it can be silent where it is not.",
    "serve": "Serve completions of a model, or of the default one, to editors.",
    "models": "What a running server serves: list, swap, roll back, unload, adapters.",
    "complete": "One completion, at a place in a file.",
    "scan": "Secrets and personal data in files and folders.",
    "attribute": "Which parts of a file stand verbatim in the corpus, and under which licence.",
}
"""Name → one line of help. The command `name` is the Typer app `cli.<name>.app`."""


class LazyGroup(TyperGroup):
    """Shows all commands without importing any: `codelm --help` must not load torch or llama.cpp."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return typer.core.TyperCommand(cmd_name, short_help=COMMANDS[cmd_name], rich_help_panel="Commands")

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            command = typer.main.get_command(importlib.import_module(f"cli.{name}").app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def show_version(value: bool) -> None:
    """Prints the version and ends the program, if asked to."""
    if value:
        typer.echo(f"codelm {__version__}")
        raise typer.Exit


@app.callback()
def codelm(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a folder of source code to a completion in your editor, all on your own machine.

    Start with: codelm quickstart
    """


def main() -> None:
    """Runs the command line. User errors: one line on stderr and exit code 2."""
    # whenever another library imports it, it recommends kernels that would be downloaded
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        run_rank()
        return
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run_rank() -> None:
    """The same in one of several processes, of which the first speaks, and the one that started them tells errors."""
    from cli.ranks import leads, record
    from training.engine.ranks import LAUNCHED, end

    if not leads():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    try:
        app()
    except SystemExit as ended:
        end(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except UserError as error:
        record(error)
        if leads() and LAUNCHED not in os.environ:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        record(error)
        if LAUNCHED not in os.environ:
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
