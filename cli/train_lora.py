"""`codelm train lora`: a base model learns a user's code by an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from cli.train_shared import Ranks, Restart, Set, summary


def lora(
    run: Annotated[Path, typer.Option(metavar="RUN", help="A run folder with the corpus of your code.")],
    base: Annotated[
        Path,
        typer.Option(
            metavar="CKPT|FILE.gguf|default",
            help="A checkpoint, a training's folder for its newest one, an exported model, or codelm's own.",
        ),
    ],
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Train on so many tokens. Default: lora.epochs times yours.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Train this long; a measurement sets the budget.")] = None,
    settings: Set = None,
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Write base and adapter as one model too.")] = True,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the training goes. Default: RUN/lora.")] = None,
    ranks: Ranks = 1,
    restart: Restart = False,
) -> None:
    """Teach a base model your code by a low-rank adapter, into RUN/lora.

    The corpus is encoded with the base's tokenizer if RUN has no tokens yet. The result: RUN/lora/adapter for PEFT,
    adapter.gguf for llama.cpp beside a GGUF of the base, and merged, one model in Hugging Face layout.

    Examples: codelm train lora --run runs/my-code --base default

    codelm train lora --run runs/my-code --base runs/mine/pretrain
    """
    from cli.ranks import launched_for
    from cli.stages import RunFolder, training
    from codelm.config.options import parse_settings
    from codelm.config.preset import Preset
    from training.engine import ranks as processes
    from training.lora import GGUF, preset_of

    if launched_for(ranks):
        return
    changes = parse_settings(settings or [], Preset)
    with training(run) as display:
        folder = RunFolder(run, display)
        folder.lora = out or folder.lora
        base = folder.given(base, "--base")
        preset = preset_of(base).with_changes(changes).with_training(tokens=tokens, minutes=minutes)
        processes.Ranks().first(lambda: folder.encode_for(base))
        counts = folder.run_lora(preset, base, restart, merge).counts
    trained = f"{counts['trained_parameters']:,} of {counts['parameters']:,} parameters trained"
    typer.echo(f"{trained}, {folder.lora / GGUF}; {summary(folder.lora, counts)}")
