"""How long work tells where it is; the command line shows it, tests and libraries may leave it silent."""

from collections.abc import Callable
from typing import Protocol


class Reporter(Protocol):
    """Hears about the run."""

    def note(self, text: str) -> None:
        """Says one line."""
        ...

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Starts a stage of ``total`` steps; the returned function is told of steps done."""
        ...

    def cells(self, there: int, missing: int, users: int) -> Callable[[int, int], None]:
        """Starts the filling of a run's cells.

        Args:
            there: cells that were there before.
            missing: cells to be filled.
            users: in the missing cells, counted in each.

        Returns:
            A function that is told, for each cell filled, of its users and of how many cells are left.
        """
        ...


class Silent:
    """Hears and says nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Returns a function that does nothing."""
        return lambda _: None

    def cells(self, there: int, missing: int, users: int) -> Callable[[int, int], None]:
        """Returns a function that does nothing."""
        return lambda *_: None
