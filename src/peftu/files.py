"""Files that appear whole or not at all, and what names their content."""

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


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


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Returns the path, now holding the content on disk: readers see the old file or the new one, never a part."""
    with replacing(path) as part, part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def one_at_a_time(lock: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lets one process at a time run the block; the system frees the lock of a process that dies.

    On systems without ``fcntl`` nobody waits: the last one wins.

    Args:
        lock: a file, made if it is not there; it stays.
        on_wait: called once if another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
