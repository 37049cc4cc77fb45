"""What every command prints: results on stdout, progress and remarks on stderr, one JSON object where asked."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# No markup: rich would take the knobs of 'lora[rank=4]' for a style and leave them out.
stdout = Console(markup=False)
stderr = Console(stderr=True, highlight=False, markup=False)


def emit(result: Any, as_json: bool, *human: RenderableType) -> None:
    """Prints one JSON value, or what a person reads."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))  # noqa: T201
    else:
        for part in human:
            stdout.print(part, soft_wrap=isinstance(part, str))  # a path stays in one piece


class Bars:
    """A progress bar a stage, on stderr, with the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, text: str) -> None:
        """Prints one line above the bars."""
        self._progress.console.print(text, soft_wrap=True)

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Adds a bar; users who stop early leave it short, so it is filled when the next stage starts."""
        self._progress.start()  # not before there is something to show: an early error stands alone
        self.finish()
        task = self._progress.add_task(name, total=max(1, total))
        return lambda steps: self._progress.advance(task, steps)

    def finish(self) -> None:
        """Fills every bar."""
        for task in self._progress.tasks:
            self._progress.update(task.id, completed=task.total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Shows bars on stderr while the block runs."""
    columns = (
        TextColumn("{task.description:<32}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=stderr)
    shown = Bars(progress)
    try:
        yield shown
        shown.finish()
    finally:
        if progress.tasks:
            progress.stop()
