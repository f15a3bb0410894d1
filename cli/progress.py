"""Progress on the terminal: one display for one stage or for the whole way."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from codelm.progress import Progress


class Display:
    """A bar for each stage, on stderr, with its live facts (loss, speed) beside it; plain lines where that is a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """A bar that fills when the stage ends well and goes when it fails."""
        task = self._bars.add_task(name, total=None, facts="")
        worked = False

        def progress(done: float, total: float | None = None, **facts: str) -> None:
            nonlocal worked
            if not worked and not self.console.is_terminal:
                self.say(f"{name} …")
            worked = True
            words = [text if key == "note" else f"{key} {text}" for key, text in facts.items()]
            self._bars.update(task, completed=done, total=total, facts="  ".join(words))

        try:
            yield progress
        except BaseException:
            self._bars.remove_task(task)  # the error is what there is to read
            raise
        total = next(bar.total for bar in self._bars.tasks if bar.id == task) or 1
        self._bars.update(task, completed=total, total=total, facts="" if worked else "unchanged, skipped")
        if not self.console.is_terminal:
            self.say(f"{name}: {'done' if worked else 'unchanged, skipped'}")

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(line, highlight=False)
