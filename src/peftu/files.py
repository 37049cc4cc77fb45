"""Files that appear whole or not at all, and what names their content."""

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
def held(path: Path) -> Iterator[BinaryIO]:
    """Yields a new file to write to, which is held until the block ends or the process dies; see `unheld`."""
    while True:
        with path.open("wb") as file:
            _lock(file, wait=True)
            if path.exists():  # else somebody who tidied up took it before it was held
                yield file
                return


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
        yield _lock(file, wait=False)


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Returns whether a file is now locked for whoever opened it; the system frees the lock when it is closed."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
