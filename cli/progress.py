"""Progress on the terminal: one display for one stage or for the whole way."""

import contextlib
import time
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cli.ranks import leads
from codelm.progress import Progress

PLAIN_SECONDS = 60
"""How often a long stage says where it is, where there is no terminal."""


class Display:
    """A bar for each stage, on stderr, with its live facts (loss, speed) beside it; plain lines where that is a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not leads())
        self._bars = _BarsWithView(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=4,
        )

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def stage(self, name: str, view: RenderableType | None = None) -> Iterator[Progress]:
        """A bar that fills when the stage ends well and goes when it fails.

        view: what a terminal shows below the bars while the stage goes on.
        """
        task = self._bars.add_task(name, total=None, facts="")
        worked, told = False, time.monotonic()
        self._bars.view = view

        def progress(done: float, total: float | None = None, **facts: str) -> None:
            nonlocal worked, told
            words = "  ".join(text if key == "note" else f"{key} {text}" for key, text in facts.items())
            if not self.console.is_terminal:
                if not worked:
                    self.say(f"{name} …  {words}".rstrip())
                elif total and time.monotonic() - told > PLAIN_SECONDS:
                    self.say(f"{name} {done / total:.0%}  {words}".rstrip())
                    told = time.monotonic()
            worked = True
            self._bars.update(task, completed=done, total=total, facts=words)

        try:
            yield progress
        except BaseException:
            self._bars.remove_task(task)  # the error is what there is to read
            raise
        finally:
            self._bars.view = None
        total = next(bar.total for bar in self._bars.tasks if bar.id == task) or 1
        self._bars.update(task, completed=total, total=total, facts="" if worked else "unchanged, skipped")
        if not self.console.is_terminal:
            self.say(f"{name}: {'done' if worked else 'unchanged, skipped'}")

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class _BarsWithView(Bars):
    """Bars, and below them what one stage has to show."""

    view: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.view is not None:
            yield self.view
