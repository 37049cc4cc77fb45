"""What a reader is, which there are, and which of them reads a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from peftu.data.readers.file import File, Reading, unpacked
from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.registry import Registry


class Reader(Protocol):
    """Reads one layout of file or folder.

    Attributes:
        name: under which ``--format`` knows it.
        title: what it reads, in words.
        plain: whether it reads any table of its format; the others know one tool's layout and are asked first.
    """

    name: str
    title: str
    plain: bool

    def claims(self, file: File) -> bool:
        """Returns whether a file is of this layout, by its beginning and several of its columns or keys."""
        ...

    def open(self, file: File) -> Source:
        """Returns the file's rows.

        Raises:
            PeftuError: it is damaged, or not what it began as; the message holds no user's key and no text.
        """
        ...


readers: Registry[Reader] = Registry(
    "reader",
    {
        name: f"peftu.data.readers.{module}:READER"
        for name, module in {
            "argilla": "argilla",
            "arrow": "arrow",
            "crowdflower": "crowdflower",
            "datasets": "datasets_folder",
            "delimited": "delimited",
            "doccano": "doccano",
            "evaluate": "evaluate",
            "inception": "inception",
            "items": "items",
            "json": "json_text",
            "label-studio": "label_studio",
            "lamp": "lamp",
            "lewidi": "lewidi",
            "lm-eval": "lm_eval",
            "mturk": "mturk",
            "nested": "nested",
            "parquet": "parquet",
            "potato": "potato",
            "probabilities": "probabilities",
            "prodigy": "prodigy",
            "qualtrics": "qualtrics",
            "sheet": "sheet",
            "systems": "systems",
        }.items()
    },
)


@contextmanager
def opened(path: Path, reading: Reading | None = None) -> Iterator[Source]:
    """Opens a file or folder of any layout that a reader knows; it may be packed, or '-' for standard input.

    Raises:
        PeftuError: it cannot be read, or no reader or several take it for their own.
    """
    reading = reading or Reading()
    with unpacked(path, reading) as file:
        yield _reader_of(file, reading).open(file)


def claiming(file: File, *, plain: bool) -> list[Reader]:
    """Returns the readers of plain formats, or of tools' layouts, that take a file for their own."""
    known = map(readers.get, readers.names())
    return [reader for reader in known if reader.plain == plain and reader.claims(file)]


def _reader_of(file: File, reading: Reading) -> Reader:
    if reading.format is not None:
        reader = readers.get(reading.format)
        if not reader.claims(file):
            raise PeftuError(f"{file.path}: --format {reading.format}: is not {reader.title} — leave --format out")
        return reader
    for plain in (False, True):
        fitting = claiming(file, plain=plain)
        if len(fitting) > 1:
            titles = " and as ".join(reader.title for reader in fitting)
            options = " or ".join(f"--format {reader.name}" for reader in fitting)
            raise PeftuError(f"{file.path}: can be read as {titles} — pass {options}")
        if fitting:
            return fitting[0]
    if file.shape == "folder":
        what = f"a folder or archive of {len(file.files):,} files"
        raise PeftuError(f"{file.path}: is {what}, and of no layout that is known — pass a file, or --member NAME")
    raise PeftuError(f"{file.path}: no reader knows what this is — save it as CSV, JSONL or Parquet")
