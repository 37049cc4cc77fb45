"""Files that appear whole or not at all, work that one process does at a time, and what names a file's content."""

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """Yields a path beside this one, nobody else's; what lies there when the block ends is removed, well or not."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to: readers of this one see the old file until the block ends well, then the new one."""
    with partial(path) as part:
        yield part
        part.replace(path)


def write_atomic(path: Path, content: str | bytes, private: bool = False) -> Path:
    """Returns the path, now holding the content on disk: readers see the old file or the new one, never a part."""
    with replacing(path) as part, (private_file(part) if private else part).open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    return path


def owner_only(path: Path) -> Path:
    """Returns a file or folder that nobody but its owner may open from now on; it holds people's keys or modules.

    Raises:
        OSError: it is another's.
    """
    if (mode := path.stat().st_mode) & 0o077:
        path.chmod(mode & 0o700)
    return path


def private_file(path: Path) -> Path:
    """Returns a file that is now there and its owner's alone, for somebody else's code to write over."""
    os.close(_private(path, os.O_CREAT | os.O_WRONLY))
    return owner_only(path)


def waiting_file(path: Path) -> Path:
    """Returns where the next content of a file lies until whoever vouches for its sha256 has changed that."""
    return path.with_name(f".{path.name}.tmp")


def put_waiting(path: Path, sha256: str) -> None:
    """Puts what waits for a file in its place, if it has this sha256."""
    waiting = waiting_file(path)
    with suppress(FileNotFoundError):  # nothing waits, or another process was faster
        if sha256_of(waiting) == sha256:
            waiting.replace(path)


def has_content(path: Path, sha256: str) -> bool:
    """Returns whether a file is there with this sha256, if need be after putting what waits for it in its place."""
    if path.is_file() and sha256_of(path) == sha256:
        return True
    with suppress(OSError):  # it may not be written to
        put_waiting(path, sha256)
    return path.is_file() and sha256_of(path) == sha256


def sync_file(path: Path) -> None:
    """Has a file that somebody else's code wrote on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Has the names of a folder's new files on disk, too, where a folder can be synced."""
    if sys.platform != "win32":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def held(path: Path) -> Iterator[BinaryIO]:
    """Yields a new file, its owner's alone, which is held until the block ends or the process dies; see `unheld`."""
    while True:
        with open(path, "wb", opener=_private) as file:
            locked(file, wait=True)
            if path.exists():  # else somebody who tidied up took it before it was held
                yield file
                return


def _private(path: str | Path, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Yields whether a file is there and nobody holds it; nobody can while the block runs.

    On systems without ``fcntl`` every file counts as held.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        yield locked(file, wait=False)


@contextmanager
def only_one(lock: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lets one process at a time run the block; the system frees the lock of a process that dies.

    On systems without ``fcntl`` two processes may both do the work: each in a place of its own, and the last one wins.

    Args:
        lock: a file that is made and left there.
        on_wait: called before waiting for another process.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    with lock.open("a") as stream:
        if not locked(stream, wait=False):
            on_wait()
            locked(stream, wait=True)
        yield


def locked(file: IO[Any] | int, wait: bool) -> bool:
    """Returns whether an open file or folder is now locked for whoever opened it, until that closes it or dies.

    Raises:
        OSError: its file system has no locks.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
