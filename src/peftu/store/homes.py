"""Where shards lie: in the store's own folder, or as objects under a URL that fsspec reads and writes.

The index names a shard by its file in the folder, or by its whole URL. An object is written once, read in ranges, and
deleted; what it is to hold is put together in the folder, where a lock says that its writer lives.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from peftu.errors import PeftuError


class GoneError(PeftuError):
    """A shard is not where the index said it is."""


class Source(Protocol):
    """The bytes of a shard."""

    @property
    def size(self) -> int:
        """Returns how many there are."""
        ...

    def ahead(self, start: int, stop: int) -> None:
        """Has these bytes fetched in one piece: they are going to be read."""
        ...

    def readinto(self, start: int, into: memoryview) -> int:
        """Returns how many bytes were read; 0 at the end."""
        ...


class _File:
    """A file on this machine."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def ahead(self, start: int, stop: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)

    def readinto(self, start: int, into: memoryview) -> int:
        self._file.seek(start)
        return self._file.readinto(into)


class _Object:
    """An object elsewhere; of what was fetched ahead the last piece is kept."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path
        self._start, self._piece = 0, memoryview(b"")

    @cached_property
    def size(self) -> int:
        return int(self._system.info(self._path)["size"])

    def ahead(self, start: int, stop: int) -> None:
        self._start, self._piece = start, memoryview(self._system.cat_file(self._path, start=start, end=stop))

    def readinto(self, start: int, into: memoryview) -> int:
        part = self._piece[start - self._start :][: len(into)]
        into[: len(part)] = part
        return len(part)


def is_url(name: str) -> bool:
    """Returns whether a shard lies elsewhere."""
    return "://" in name


@contextmanager
def opened(folder: Path, name: str) -> Iterator[Source]:
    """Opens a shard.

    Raises:
        GoneError: it is not there.
        PeftuError: it cannot be read, or the block finds that it is not whole: a ValueError.
    """
    where = place(folder, name)
    try:
        if is_url(name):
            with _elsewhere(name) as (system, path):
                yield _Object(system, path)
        else:
            with Path(where).open("rb", buffering=0) as file:
                yield _File(file)
    except FileNotFoundError:
        raise GoneError(f"{where}: is missing — restore it or train again") from None
    except (OSError, ValueError) as error:
        raise PeftuError(f"{where}: not a whole shard ({error}) — restore it or train again") from None


def place(folder: Path, name: str) -> str:
    """Returns the path or URL of a shard."""
    return name if is_url(name) else str(folder / name)


def put(path: Path, url: str) -> None:
    """Copies a file to where it was not yet.

    Raises:
        PeftuError: it cannot be written there.
    """
    with _elsewhere(url) as (system, target):
        if "file" in _protocols(system):  # others make no folders
            system.makedirs(system._parent(target), exist_ok=True)
        system.put_file(str(path), target)


def remove(url: str) -> None:
    """Deletes an object that may be gone.

    Raises:
        PeftuError: it cannot be deleted.
    """
    with _elsewhere(url) as (system, path), suppress(FileNotFoundError):
        system.rm_file(path)


def new_under(url: str) -> str:
    """Returns a new URL under this one, for one store alone; that it can be written to has been tried.

    Raises:
        PeftuError: it is no URL, or cannot be written to.
    """
    if not is_url(url) or len(url.split()) != 1:
        raise PeftuError(f"--shards: '{url}' is no URL — pass one such as s3://bucket/folder, or 'here'")
    new = f"{url}/{uuid.uuid4().hex}"
    with tempfile.NamedTemporaryFile() as empty:
        put(Path(empty.name), f"{new}/tried")
    remove(f"{new}/tried")
    return new


def objects(url: str) -> list[str]:
    """Returns the URLs of what lies under one.

    Raises:
        PeftuError: it cannot be listed.
    """
    with _elsewhere(url) as (system, path):
        system.invalidate_cache()
        return [f"{url}/{Path(found).name}" for found in system.find(path)]


@contextmanager
def _elsewhere(url: str) -> Iterator[tuple[Any, str]]:
    """Yields the file system of a URL, and the path in it.

    Raises:
        PeftuError: there is no such file system here, or it refuses.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PeftuError(f"{scheme}://: cannot be used here ({_line(error)}) — pip install 'peftu[shards]'") from None
    try:
        yield system, path
    except (PeftuError, FileNotFoundError, ValueError):
        raise
    except Exception as error:  # noqa: BLE001  (each file system has errors of its own)
        raise PeftuError(f"{url}: {_line(error)} — mend the address, its rights or the connection") from None


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
