"""What is known of a file before it is read: how it is packed and encoded, and what stands at its beginning."""

import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from peftu.data.archives import OPENERS, Metered, unpack_all
from peftu.data.readers.delimited import Dialect, find_dialect
from peftu.data.readers.encoding import decoded, encoding_of, is_text_codec
from peftu.errors import PeftuError
from peftu.outside import parse_json, plain_file

Shape = Literal["folder", "binary", "array", "object", "lines", "delimited"]
STDIN = Path("-")
BEGIN = 1 << 12  # bytes looked at for what a file is
SAMPLE = 1 << 18  # characters looked at for dialect and first records
FIRST = 20  # records looked at for a layout
LONGEST_LINE = 1 << 26
ZIP = b"PK\x03\x04"
COMPRESSED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz"}
REFUSED = {
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
}
PARQUET = b"PAR1"
OLD_SHEET = b"\xd0\xcf\x11\xe0"
BINARY = (PARQUET, b"ARROW1", b"\xff\xff\xff\xff", OLD_SHEET, ZIP)  # the last two are spreadsheets, old and new
SHEETS = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")  # members of .xlsx, .xlsb, .ods


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where that is not left to be found.

    Attributes:
        format: name of a reader.
        encoding: a codec of Python's.
        sheet: of a spreadsheet.
        member: of an archive.
    """

    format: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    member: str | None = None


class File:
    """A file or folder; each fact about it is found when it is asked for, once.

    Args:
        path: as it was given; for messages.
        data: where its bytes lie, unpacked.
        reading: how it is to be read.
        members: the files of an archive by name, where it is one of them or all.
    """

    def __init__(
        self, path: Path, data: Path, reading: Reading | None = None, members: dict[str, Path] | None = None
    ) -> None:
        self.path, self.data, self.reading, self._members = path, data, reading or Reading(), members

    @cached_property
    def begin(self) -> bytes:
        """Returns the first bytes; none of a folder's."""
        if self.data.is_dir():
            return b""
        try:
            with plain_file(self.data).open("rb") as stream:
                return stream.read(BEGIN)
        except OSError:
            raise PeftuError(f"{self.path}: cannot be read — check the path and the file's rights") from None

    @cached_property
    def files(self) -> dict[str, Path]:
        """Returns the plain files of a folder or archive by their path in it; they may be named after users."""
        if self._members is not None:
            return self._members
        paths = sorted(path for path in self.data.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.data).as_posix(): path for path in paths}

    @cached_property
    def shape(self) -> Shape:
        """Returns what it looks like: text that is no JSON is delimited."""
        if self.data.is_dir():
            return "folder"
        if self.begin.startswith(BINARY):
            return "binary"
        begin = self.sample.lstrip()
        if begin[:1] not in ("{", "["):
            return "delimited"
        if begin[0] == "[":
            return "array" if begin[1:].lstrip()[:1] in ("{", "]") else "delimited"
        return "lines" if self._is_lines() else "object"

    @cached_property
    def encoding(self) -> str:
        """Returns the codec of its text.

        Raises:
            PeftuError: Python has no codec of the name given, or none can be told.
        """
        given = self.reading.encoding
        if given is not None and not is_text_codec(given):
            raise PeftuError(f"--encoding: Python knows no text codec '{given}' — write one as utf-8, cp1252 or gbk")
        return given or encoding_of(self.data, self.path)

    @cached_property
    def sample(self) -> str:
        """Returns the first characters of its text.

        Raises:
            PeftuError: there are none, or they cannot be decoded.
        """
        try:
            with self.data.open(encoding=self.encoding, newline="") as text:
                sample = text.read(SAMPLE)
        except UnicodeError:
            raise PeftuError(f"{self.path}: is not {self.encoding} — pass another --encoding") from None
        if not sample.strip():
            raise PeftuError(f"{self.path}: holds no rows — check that it is the right file")
        return sample

    @cached_property
    def dialect(self) -> Dialect:
        """Returns the delimiter and the quotes of delimited text, and its first rows."""
        return find_dialect(self.path, self.sample, whole=len(self.sample) < SAMPLE)

    @cached_property
    def header(self) -> tuple[str, ...]:
        """Returns the column names of delimited text or Parquet; none of anything else's."""
        if self.begin.startswith(PARQUET):
            try:
                return tuple(pq.read_schema(self.data).names)
            except (pa.ArrowException, OSError):  # its reader tells the damage
                return ()
        return self.dialect.rows[0] if self.shape == "delimited" else ()

    @cached_property
    def text(self) -> bytes:
        """Returns all of its text as UTF-8 bytes."""
        return decoded(self.data, self.encoding)

    @cached_property
    def document(self) -> Any:
        """Returns what a JSON file holds as a whole.

        Raises:
            PeftuError: it is no JSON.
        """
        try:
            return parse_json(self.text, halves=True)
        except ValueError as error:
            raise PeftuError(f"{self.path}: is not valid JSON ({error}) — mend the file") from None

    @cached_property
    def first(self) -> list[dict[str, Any]]:
        """Returns the first JSON objects of an array, or of lines; of one object that object."""
        records: list[Any] = []
        if self.shape == "object":
            records = [self.document]
        elif self.shape == "array":
            records = list(islice(_elements(self.sample), FIRST)) or self.document[:FIRST]
        elif self.shape == "lines":
            records = list(self._line_objects())
        return [record for record in records if isinstance(record, dict)]

    def keys(self) -> set[str]:
        """Returns the keys that the first JSON objects have, or the columns of delimited text or Parquet."""
        return {key for record in self.first for key in record} | set(self.header)

    def _is_lines(self) -> bool:
        return next(self._line_objects(), None) is not None and len(list(islice(self._lines(), 2))) == 2

    def _line_objects(self) -> Iterator[dict[str, Any]]:
        """Yields the JSON objects that stand in a line of their own, among the first lines."""
        for line in self._lines():
            try:
                value = parse_json(line, halves=True)
            except json.JSONDecodeError:
                continue
            except ValueError:  # JSON, and not fit to be read: whoever reads the line tells why
                value = {}
            if isinstance(value, dict):
                yield value

    def _lines(self) -> Iterator[str]:
        """Yields the first lines that are not blank, one at a time: they may be long."""
        with io.TextIOWrapper(self.data.open("rb"), self.encoding, newline="\n") as text:
            yield from islice(filter(str.strip, iter(lambda: text.readline(LONGEST_LINE), "")), FIRST)


def _elements(sample: str) -> Iterator[Any]:
    """Yields the elements of a JSON array that stand whole in its first characters."""
    decoder, place = json.JSONDecoder(), sample.index("[") + 1
    while True:
        while place < len(sample) and sample[place] in " \t\r\n,":
            place += 1
        try:
            value, place = decoder.raw_decode(sample, place)
        except (ValueError, RecursionError):
            return
        yield value


@contextmanager
def unpacked(path: Path, reading: Reading | None = None) -> Iterator[File]:
    """Opens a file or folder, unpacked for as long as it is open: gzip, bzip2, xz, zip; '-' is standard input.

    Raises:
        PeftuError: there is no such file, it is packed in another way, damaged, or grows too large.
    """
    reading = reading or Reading()
    with tempfile.TemporaryDirectory(prefix="peftu-") as folder:
        home = Path(folder)
        data = path
        if path == STDIN:
            data = home / "input"
            with data.open("wb") as target:
                shutil.copyfileobj(sys.stdin.buffer, target)
        file = File(path, data, reading)
        suffix = next((suffix for magic, suffix in COMPRESSED.items() if file.begin.startswith(magic)), None)
        if suffix is not None:
            inner = home / (path.stem or "inner")
            with OPENERS[suffix](data, "rb") as stream, inner.open("wb") as target:
                shutil.copyfileobj(Metered(stream, data.stat().st_size, str(path)), target)
            file = File(path, inner, reading)
        if file.begin.startswith(ZIP) and not is_sheet(file.data):
            members_home = home / "members"
            members_home.mkdir()
            file = _chosen(path, members_home, unpack_all(file.data, members_home, path), reading)
        for magic, what in REFUSED.items():
            if file.begin.startswith(magic):
                raise PeftuError(f"{path}: is {what} — save or unpack it as CSV, JSONL or Parquet")
        if file.begin[257:262] == b"ustar":
            raise PeftuError(f"{path}: is a tar archive — unpack it, and pass a file of it")
        yield file


def is_sheet(path: Path) -> bool:
    """Returns whether a zip archive is a spreadsheet."""
    try:
        with zipfile.ZipFile(path) as zipped:
            return not set(SHEETS).isdisjoint(zipped.namelist())
    except (zipfile.BadZipFile, NotImplementedError):
        return False


def _chosen(path: Path, folder: Path, members: dict[str, Path], reading: Reading) -> File:
    """Returns the one file of an archive, the member asked for, or the folder of all."""
    if reading.member is not None:
        if reading.member not in members:
            raise PeftuError(
                f"{path}: --member: holds no such file, but {len(members):,} others — write its whole name"
            )
        return File(path, members[reading.member], reading)
    if len(members) == 1:
        return File(path, next(iter(members.values())), reading, members)
    return File(path, folder, reading, members)
