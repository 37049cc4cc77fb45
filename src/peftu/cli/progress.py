"""How far work is, on stderr: bars on a terminal, plain lines elsewhere, nothing where that is wanted."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from peftu.cli.console import stderr
from peftu.lab.progress import Reporter, Silent

LINES = 20  # at most, over the cells of a run


class Pace:
    """How many cells are filled, and how fast; those that were there before do not count as work.

    Args:
        there: cells that were there before.
        missing: cells to be filled.
        users: in the missing cells, counted in each.
        clock: seconds.

    Attributes:
        done: cells that are there.
        cells: all cells; more where one was divided.
        filled: users of the cells that were filled.
    """

    def __init__(self, there: int, missing: int, users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.done, self.cells, self.users, self.filled = there, there + missing, users, 0
        self._clock = clock
        self._start = self._last = clock()

    def add(self, users: int, left: int) -> None:
        """Counts a cell that was filled just now, and sees how many are left."""
        self.done, self.filled = self.done + 1, self.filled + users
        self.cells, self._last = self.done + left, self._clock()

    @property
    def users_an_hour(self) -> float | None:
        """Returns the users filled in an hour so far; None: no cell has been filled."""
        seconds = self._last - self._start
        return 3600 * self.filled / seconds if self.filled and seconds > 0 else None

    @property
    def left(self) -> str:
        """Returns the time left, as h:mm:ss."""
        rate = self.users_an_hour
        if rate is None:
            return "-:--:--"
        seconds = 3600 * (self.users - self.filled) / rate - (self._clock() - self._last)
        return str(timedelta(seconds=max(0, round(seconds))))

    def __str__(self) -> str:
        rate = self.users_an_hour
        return "cells" if rate is None else f"cells, {rate:,.0f} users an hour"


class _Done(MofNCompleteColumn):
    """Cells that are there of all, or steps done of all."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields.get("pace")
        return super().render(task) if pace is None else Text(f"{pace.done}/{pace.cells}")


class _Left(TimeRemainingColumn):
    """The time left: cells may be further apart than the bars' own estimate looks back."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields.get("pace")
        return super().render(task) if pace is None else Text(pace.left)


class Bars:
    """One bar for all cells and, below it, one for each stage of the cell that is being filled here."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._cells: TaskID | None = None

    def note(self, text: str) -> None:
        """Prints one line above the bars."""
        self._progress.console.print(text, soft_wrap=True)

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Adds a bar; users who stop early leave it short, so it is filled when the next stage starts."""
        self._progress.start()  # not before there is something to show: an early error stands alone
        self.finish()
        task = self._progress.add_task(name, total=max(1, total))
        return lambda steps: self._progress.advance(task, steps)

    def cells(self, there: int, missing: int, users: int) -> Callable[[int, int], None]:
        """Adds the bar of all cells; the stages of a cell go when it is filled."""
        self._progress.start()
        self._drop_stages()
        pace = Pace(there, missing, users)
        bar = self._cells = self._progress.add_task(str(pace), total=max(1, users), pace=pace)

        def filled(users: int, left: int) -> None:
            pace.add(users, left)
            self._drop_stages()
            self._progress.update(bar, completed=pace.filled, description=str(pace))

        return filled

    def finish(self) -> None:
        """Fills the bars of all stages."""
        for task in self._stages():
            self._progress.update(task.id, completed=task.total)

    def _drop_stages(self) -> None:
        for task in self._stages():
            self._progress.remove_task(task.id)

    def _stages(self) -> list[Task]:
        return [task for task in self._progress.tasks if task.id != self._cells]


class Lines:
    """Notes and, of the cells, a line for every twentieth of the users: for files and pipes."""

    def note(self, text: str) -> None:
        """Prints one line."""
        stderr.print(text, soft_wrap=True)

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Returns a function that prints nothing."""
        return lambda _: None

    def cells(self, there: int, missing: int, users: int) -> Callable[[int, int], None]:
        """Returns a function that prints where the cells are, `LINES` times at most."""
        pace = Pace(there, missing, users)

        def filled(users: int, left: int) -> None:
            before = LINES * pace.filled // max(1, pace.users)
            pace.add(users, left)
            if LINES * pace.filled // max(1, pace.users) > before:
                self.note(f"{pace.done} of {pace.cells} {pace}, {pace.left} left")

        return filled


@contextmanager
def progress(quiet: bool = False) -> Iterator[Reporter]:
    """Shows on stderr, while the block runs, how far work is.

    Args:
        quiet: show nothing.
    """
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty() or stderr.is_dumb_terminal:  # rich alone would go by FORCE_COLOR, too
        yield Lines()
    else:
        columns = (
            TextColumn("{task.description:<32}", markup=False),
            BarColumn(bar_width=18),
            _Done(),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Left(),
        )
        bars = Progress(*columns, console=stderr)
        shown = Bars(bars)
        try:
            yield shown
            shown.finish()
        finally:
            if bars.tasks:
                bars.stop()
