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


class Silent:
    """Hears and says nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Returns a function that does nothing."""
        return lambda _: None
