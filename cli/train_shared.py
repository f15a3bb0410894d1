"""What the commands that train have in common: options, and the line at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting of the preset, such as pretrain.learning_rate=1e-3."),
]
Ranks = Annotated[int, typer.Option(min=1, help="Processes that train together: one for each GPU.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away the training that DIR holds.")]


def summary(folder: Path, counts: Mapping[str, Any]) -> str:
    """What a finished training has come to, on one line."""
    told = [f"{folder / counts['checkpoint']}: {counts['tokens']:,} tokens, {counts['epochs']} epochs"]
    if counts["valid_bits_per_byte"] is not None:
        told.append(f"{counts['valid_bits_per_byte']:.3f} bits per byte on held-out files")
    if counts["best_checkpoint"] not in (None, counts["checkpoint"]):
        told.append(f"best at infilling: {counts['best_checkpoint']}")
    if counts["stopped"]:
        told.append(f"stopped by {counts['stopped']['rule']}")
    return f"{', '.join(told)}; see {folder / 'loss.png'}"
