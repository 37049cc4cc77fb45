"""Packed files, read safely: one file is taken out of an archive, streamed and within limits, and nothing else is."""

import bz2
import contextlib
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from peftu.errors import PeftuError
from peftu.files import replacing

BLOCK = 1 << 20
LARGEST = 1 << 36  # bytes that one file may grow to
RATIO = 200  # times that it may grow; text grows 3 to 60 times, what deflate packs at most 1032 times
SLACK = 1 << 26  # bytes that any file may grow to, whatever the ratio
MOST_MEMBERS = 100_000
SHOWN_NAME = 60
BOMB = "when unpacked, as a zip bomb does — if you trust it, unpack it by hand"

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TARS = (".tar", ".tgz", *(f".tar{suffix}" for suffix in OPENERS))
SUFFIXES = (".zip", ".7z", *TARS)
BAD = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
UNREADABLE = (RuntimeError, NotImplementedError)  # zipfile: a password, a compression that it does not know


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102


class Metered(io.RawIOBase):
    """Unpacked bytes, counted as they are read: a stream that grows beyond the limits, or is damaged, ends in an error.

    Args:
        stream: the unpacked bytes.
        packed: size of the packed file.
        where: the file, for the message.

    Raises:
        PeftuError: while reading.
    """

    def __init__(self, stream: Readable, packed: int, where: str) -> None:
        self._stream, self._where = stream, where
        self._most = _most(packed)
        self._seen = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Returns how many bytes were put into the buffer."""
        try:
            block = self._stream.read(len(buffer))
        except UNREADABLE as error:
            raise PeftuError(f"{self._where}: cannot be unpacked ({error}) — unpack it by hand") from None
        except BAD:
            raise PeftuError(f"{self._where}: is truncated or damaged — get it again") from None
        self._seen += len(block)
        if self._seen > self._most:
            raise PeftuError(f"{self._where}: grows beyond {self._most:,} bytes {BOMB}")
        buffer[: len(block)] = block
        return len(block)


class Member(NamedTuple):
    """A file in an archive; without a name, the one file that a compressed file holds."""

    archive: Path
    name: str = ""


def archives_in(folder: Path, besides: Sequence[str] = ()) -> list[Path]:
    """Returns the archives that lie directly in a folder, without those of these names."""
    archives = (path for path in folder.iterdir() if path.name.lower().endswith((*SUFFIXES, *OPENERS)))
    return sorted(path for path in archives if path.name not in besides and path.is_file())


def find(name: str, archives: Sequence[Path]) -> Member | None:
    """Returns where a file stands in one of these archives, or None.

    ``NAME.gz`` holds NAME; of a zip or tar archive the file may lie in any folder. Archives in archives are not opened.

    Raises:
        PeftuError: it stands in several places, may stand in an archive of a kind that is not read, or the archive is
            damaged or holds a name that leads out of its folder.
    """
    members: list[Member] = []
    for archive in archives:
        if archive.name.lower().endswith((".zip", *TARS)):
            held = [inner for inner in names(archive) if f"/{inner}".endswith(f"/{name}")]
            members += [Member(archive, inner) for inner in ([inner for inner in held if inner == name] or held)]
        elif archive.stem == Path(name).name:
            members.append(Member(archive))
    if len(members) > 1:
        places = " and ".join(_shown(f"{member.archive.name}/{member.name}".rstrip("/")) for member in members[:2])
        raise PeftuError(f"{members[0].archive.parent}: {name} stands in {places} — leave only one there")
    sevens = [archive for archive in archives if archive.suffix.lower() == ".7z"]
    if sevens and not members:
        path = sevens[0]
        raise PeftuError(f"{path}: 7z archives are not read — unpack it beside: 7z e -o{path.parent} {path} {name}")
    return members[0] if members else None


def names(archive: Path) -> list[str]:
    """Returns the names of the plain files in a zip or tar archive.

    Raises:
        PeftuError: the archive is damaged, holds too many files, or one whose name leads out of its folder.
    """
    inner_names = []
    for number, (name, plain) in enumerate(_members(archive)):
        _check_name(archive, name, number)
        if plain:
            inner_names.append(name)
    return inner_names


@contextlib.contextmanager
def opened(member: Member) -> Iterator[Metered]:
    """Opens a file in an archive; its bytes are counted as they are read.

    Raises:
        PeftuError: the archive has no such plain file, is damaged, or (while reading) grows beyond the limits.
    """
    archive, name = member
    where = f"{archive}: {_shown(name)}" if name else str(archive)
    with contextlib.ExitStack() as stack, _damage_told(archive):
        stream: Any
        if not archive.stat().st_size:
            raise EOFError
        if not name:
            stream = stack.enter_context(OPENERS[archive.suffix.lower()](archive))
        elif archive.suffix.lower() == ".zip":
            stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(name))
        else:
            tar = stack.enter_context(_tar(archive))
            stream = next((tar.extractfile(inner) for inner in tar if inner.name == name and inner.isfile()), None)
        if stream is None:
            raise PeftuError(f"{archive}: holds no plain file {_shown(name)!r} — check that it is the right archive")
        metered = Metered(stream, archive.stat().st_size, where)
        stack.callback(metered.close)
        yield metered


def unpack(member: Member, dest: Path) -> Path:
    """Returns ``dest`` after writing a file of an archive there, whole or not at all; its folder exists.

    Raises:
        PeftuError: as for ``opened``.
        OSError: it cannot be written.
    """
    with replacing(dest) as part, opened(member) as stream, part.open("wb") as target:
        while block := stream.read(BLOCK):
            target.write(block)
    return dest


def unpack_all(archive: Path, folder: Path, where: Path) -> dict[str, Path]:
    """Returns the plain files of a zip archive by name, after writing each to the folder under a number.

    Args:
        archive: the zip archive, whatever it is called.
        folder: where to; it exists. No name from the archive becomes a path.
        where: the archive, for messages.

    Raises:
        PeftuError: it is damaged, holds a name that leads out of its folder, or grows beyond the limits.
        OSError: it cannot be written.
    """
    files: dict[str, Path] = {}
    size = archive.stat().st_size
    left = _most(size)
    with _damage_told(where), zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            if not _is_plain_member(info) or _is_hidden(info.filename):
                continue
            _check_name(where, info.filename, len(files))
            path = folder / str(len(files))
            with zipped.open(info) as stream, path.open("wb") as target:
                metered = Metered(stream, size, str(where))
                while block := metered.read(BLOCK):
                    left -= target.write(block)
                    if left < 0:
                        raise PeftuError(f"{where}: grows beyond {_most(size):,} bytes {BOMB}")
            files[info.filename] = path
    return files


def check_growth(archive: Path, where: Path) -> None:
    """Checks how large the files of a zip archive are when unpacked, as it says itself.

    Raises:
        PeftuError: it is damaged, or they grow beyond the limits.
    """
    with _damage_told(where), zipfile.ZipFile(archive) as zipped:
        most = _most(archive.stat().st_size)
        if sum(info.file_size for info in zipped.infolist()) > most:
            raise PeftuError(f"{where}: grows beyond {most:,} bytes {BOMB}")


def _is_plain_member(info: zipfile.ZipInfo) -> bool:
    return not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)


def _is_hidden(name: str) -> bool:
    """Returns whether a file is what systems put beside those that were packed."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _most(packed: int) -> int:
    return min(LARGEST, max(SLACK, RATIO * packed))


def _check_name(archive: Path, name: str, number: int) -> None:
    if number >= MOST_MEMBERS:
        raise PeftuError(f"{archive}: holds more than {MOST_MEMBERS:,} files — unpack by hand what is needed")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or name[1:2] == ":":
        raise PeftuError(f"{archive}: holds {_shown(name)!r}, which leads out of its folder — do not trust it")


def _members(archive: Path) -> Iterator[tuple[str, bool]]:
    """Yields every name in a zip or tar archive, and whether it is that of a plain file (no folder, link or device)."""
    with _damage_told(archive):
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    yield info.filename, _is_plain_member(info)
        else:
            with _tar(archive) as tar:
                for inner in tar:
                    yield inner.name, inner.isfile()


@contextlib.contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """Opens a tar archive to be read from front to back; what it grows to is limited as a whole."""
    opener = OPENERS.get(".gz" if archive.suffix.lower() == ".tgz" else archive.suffix.lower(), Path.open)
    with opener(archive, "rb") as stream:
        metered = Metered(stream, archive.stat().st_size, str(archive))
        with io.BufferedReader(metered, BLOCK) as buffered, tarfile.open(fileobj=buffered, mode="r|") as tar:
            yield tar


@contextlib.contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """Turns what opening a damaged archive raises into one line; what reading it raises is told by `Metered`."""
    try:
        yield
    except BAD as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk that is full, a file that is not there
            raise
        raise PeftuError(f"{archive}: is truncated or damaged — get it again") from None
    except UNREADABLE as error:
        raise PeftuError(f"{archive}: cannot be unpacked ({error}) — unpack it by hand") from None


def _shown(name: str) -> str:
    plain = ascii(name)[1:-1]
    return plain if len(plain) <= SHOWN_NAME else plain[:SHOWN_NAME] + "…"
