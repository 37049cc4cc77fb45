"""Named things that are imported only when asked for."""

import difflib
import importlib
import unicodedata
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar, cast

from peftu.errors import PeftuError

T = TypeVar("T")
Found = TypeVar("Found", covariant=True)
LISTED = 3  # names that a suggestion holds at most


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ' — did you mean X?' for the known names that begin so, or the closest one, else what is known."""
    known = sorted(known)
    if name not in known and (twin := next((other for other in known if same_form(other) == same_form(name)), None)):
        return f" — it differs from '{twin}' in Unicode form only (NFC, NFD): write both the same way"
    plain = {other.casefold(): other for other in reversed(known)}
    begun = [other for other in known if name and other.casefold().startswith(name.casefold())]
    close = difflib.get_close_matches(name.casefold(), plain, n=1, cutoff=0.55)
    meant = [f"'{other}'" for other in (begun or [plain[other] for other in close])]
    if not meant:
        return f" — known: {', '.join(known) or 'none'}"
    more = ["…"] if len(meant) > LISTED else []
    return f" — did you mean {' or '.join(meant[:LISTED] + more)}?"


def same_form(name: str) -> str:
    """Returns the name with its accents composed (NFC): names that look the same become the same."""
    return unicodedata.normalize("NFC", name)


class Finder(Protocol[Found]):
    """Knows more names, which may come and go while the process runs (files in a folder)."""

    def names(self) -> Iterable[str]:
        """Returns the names that can be found now."""
        ...

    def find(self, name: str) -> Found | None:
        """Returns the object of that name, or None."""
        ...


class Registry(Generic[T]):
    """Names mapped to lazily imported objects; packages add theirs through entry points, group ``peftu.<kinds>``.

    Args:
        kind: what is registered, in the singular; used in messages and for the entry-point group.
        entries: name -> "module:attribute".
        finders: "module:attribute" of each `Finder`; asked, in order, for names that nothing else has.
    """

    def __init__(self, kind: str, entries: dict[str, str], finders: Iterable[str] = ()) -> None:
        self.kind = kind
        self.group = f"peftu.{kind[:-1]}ies" if kind.endswith("y") else f"peftu.{kind}s"
        self._targets = dict(entries)
        self._finders = tuple(finders)
        self._loaded: dict[str, T] = {}
        self._seen_entry_points = False

    def add(self, name: str, value: T) -> None:
        """Registers an object under a name for this process (examples, tests, imported tasks)."""
        self._loaded[name] = value

    def names(self) -> list[str]:
        """Returns every known name, sorted."""
        self._scan()
        return sorted({*self._targets, *self._loaded, *(name for finder in self._asked() for name in finder.names())})

    def __contains__(self, name: str) -> bool:
        return self.is_own(name) or any(finder.find(name) is not None for finder in self._asked())

    def is_own(self, name: str) -> bool:
        """Returns whether a name is registered here, so that no finder is asked for it."""
        self._scan()
        return name in self._loaded or name in self._targets

    def get(self, name: str) -> T:
        """Returns the object registered under a name.

        Raises:
            PeftuError: nothing has that name; the message suggests the closest one.
        """
        if not self.is_own(name):
            for finder in self._asked():
                if (item := finder.find(name)) is not None:
                    return item
            raise PeftuError(f"unknown {self.kind} '{name}'{did_you_mean(name, self.names())}")
        if name not in self._loaded:
            self._loaded[name] = cast(T, _attribute(self._targets[name]))
        return self._loaded[name]

    def _asked(self) -> list[Finder[T]]:
        return [cast(Finder[T], _attribute(target)) for target in self._finders]

    def _scan(self) -> None:
        if not self._seen_entry_points:
            self._seen_entry_points = True
            for point in entry_points(group=self.group):
                self._targets.setdefault(point.name, point.value)


def _attribute(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
