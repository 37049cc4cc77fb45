"""Named things that are imported only when asked for."""

import difflib
import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from peftu.errors import PeftuError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ' — did you mean X?' for the closest known name, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
    return f" — did you mean '{close[0]}'?" if close else f" — known: {', '.join(known)}"


class Registry(Generic[T]):
    """Names mapped to lazily imported objects; packages add their own through entry points ``peftu.<kind>s``.

    Args:
        kind: what is registered, in the singular; used in messages and for the entry-point group.
        entries: name -> "module:attribute".
    """

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self._targets = dict(entries)
        self._loaded: dict[str, T] = {}
        self._seen_entry_points = False

    def add(self, name: str, value: T) -> None:
        """Registers an object under a name for this process (examples, tests, imported tasks)."""
        self._loaded[name] = value

    def names(self) -> list[str]:
        """Returns every known name, sorted."""
        self._scan()
        return sorted({*self._targets, *self._loaded})

    def __contains__(self, name: str) -> bool:
        self._scan()
        return name in self._loaded or name in self._targets

    def get(self, name: str) -> T:
        """Returns the object registered under a name.

        Raises:
            PeftuError: nothing has that name; the message suggests the closest one.
        """
        self._scan()
        if name not in self._loaded:
            if name not in self._targets:
                raise PeftuError(f"unknown {self.kind} '{name}'{did_you_mean(name, self.names())}")
            module, _, attribute = self._targets[name].partition(":")
            self._loaded[name] = cast(T, getattr(importlib.import_module(module), attribute))
        return self._loaded[name]

    def _scan(self) -> None:
        if not self._seen_entry_points:
            self._seen_entry_points = True
            for point in entry_points(group=f"peftu.{self.kind}s"):
                self._targets.setdefault(point.name, point.value)
