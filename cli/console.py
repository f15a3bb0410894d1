"""Where commands print tables."""

from typing import Any

MAX_WIDTH = 10_000
"""Columns of what is no terminal."""


def console() -> Any:
    """Where tables go: as wide as the terminal, and as they need where there is none, so that no path is cut."""
    from rich.console import Console

    out = Console()
    return out if out.is_terminal else Console(width=MAX_WIDTH)


def plain_table(title: str) -> Any:
    """Two columns without lines, under a title; texts are shown as they are."""
    from rich.table import Table
    from rich.text import Text

    class Plain(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(Text(cell) for cell in cells), **options)

    table = Plain(
        title=Text(title), title_justify="left", title_style="bold", box=None, show_header=False, min_width=len(title)
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
