"""A thread of the service: it does what waits, and when it is stopped, what was taken is finished first."""

import threading
from abc import ABC, abstractmethod

from peftu.serving.problems import RefusedError


class Background(ABC):
    """A thread that others leave work for.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._open, self._changed = True, threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Takes no more, and returns when what was taken is done."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Returns whether work is taken and done."""
        return self._open and self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None:
        """Does what waits until the thread is stopped and nothing waits."""

    def _check_open(self) -> None:
        if not self._open:
            raise RefusedError(503, "the service is stopping — ask another", retry_after=1)
