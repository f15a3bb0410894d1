"""`codelm tokenizer`: train the byte-level BPE and encode the corpus with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.stages import RunFolder

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def tokenizer() -> None:
    """Byte-level BPE on a run's corpus."""


@app.command()
def train(
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run folder, with its corpus.")],
    preset: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Says how large the vocabulary is.")] = "nano",
) -> None:
    """Train the tokenizer on the training split, then encode both splits: DIR/tokenizer and DIR/tokens.

    Example: codelm tokenizer train --run runs/mine
    """
    from cli.progress import Display
    from cli.stages import RunFolder
    from codelm.config.preset import load_preset
    from codelm.stage import lock

    settings = load_preset(preset)
    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        made = folder.train_tokenizer(settings).counts
        tokens = folder.encode().counts
    tell(folder, made, tokens)


@app.command()
def encode(
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run folder, with its corpus.")],
    tokenizer: Annotated[
        Path,
        typer.Option(
            metavar="PATH|default",
            help="A tokenizer.json, or the run folder, checkpoint or GGUF that it belongs to; default: the default model.",
        ),
    ],
) -> None:
    """Encode both splits with a tokenizer that is there already: DIR/tokenizer and DIR/tokens.

    A model can only be trained further, or be a teacher, on tokens of its own tokenizer.

    Examples: codelm tokenizer encode --run runs/mine --tokenizer runs/base

    codelm tokenizer encode --run runs/mine --tokenizer default
    """
    from cli.progress import Display
    from cli.stages import RunFolder, read_back
    from codelm.stage import lock
    from codelm.tokenizer import find

    with lock(run, create=False), Display() as display:
        folder = RunFolder(run, display)
        made = folder.take_tokenizer(find(read_back(tokenizer, run))).counts
        tokens = folder.encode().counts
    tell(folder, made, tokens)


def tell(folder: "RunFolder", made: dict[str, Any], tokens: dict[str, Any]) -> None:
    """A line on what stands now."""
    typer.echo(
        f"{folder.tokenizer}: {made['vocab_size']:,} entries; {folder.tokens}: {tokens['train']['tokens']:,} tokens to train"
        f" on, {tokens['train']['bytes_per_token']} bytes each, {tokens['valid']['tokens']:,} held out"
    )
