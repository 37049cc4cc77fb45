"""How a text file is encoded: a byte order mark, UTF-8, UTF-16 without a mark, or one byte a character."""

import codecs
from pathlib import Path

from peftu.errors import PeftuError

BLOCK = 1 << 22
SHOWN = 10
MARKS = {  # the longer first: UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def encoding_of(path: Path, shown: Path | None = None) -> str:
    """Returns the name of the codec that reads all of a file, which messages name by ``shown``.

    A file that is not UTF-8 and has no line that could be, is taken for cp1252 (latin-1 where that fails).

    Raises:
        PeftuError: some lines are UTF-8 and others are not.
    """
    where = shown or path
    with path.open("rb") as stream:
        begin = stream.read(4096)
    for mark, name in MARKS.items():
        if begin.startswith(mark):
            return _checked(path, name, where)
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if even + odd > len(begin) / 4:
        return _checked(path, "utf-16-le" if odd > even else "utf-16-be", where)
    return "utf-8" if _reads(path, "utf-8") else _single_byte(path, where)


def is_text_codec(name: str) -> bool:
    """Returns whether Python decodes text by that name."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError):
        return False
    return True


def decoded(path: Path, encoding: str) -> bytes:
    """Returns a file's text as UTF-8 bytes without a mark."""
    data = path.read_bytes()
    return data if encoding == "utf-8" else data.decode(encoding).encode()


def _checked(path: Path, name: str, where: Path) -> str:
    if not _reads(path, name):
        raise PeftuError(f"{where}: begins as {name.removesuffix('-sig')} but does not go on so — save it as UTF-8")
    return name


def _reads(path: Path, name: str) -> bool:
    decoder = codecs.getincrementaldecoder(name)()
    with path.open("rb") as stream:
        try:
            while block := stream.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _single_byte(path: Path, where: Path) -> str:
    wide, others = 0, []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.isascii():
                continue
            try:
                line.decode()
                wide += 1
            except UnicodeDecodeError:
                others.append(number)
    if wide:
        listed = ", ".join(map(str, others[:SHOWN])) + (", …" if len(others) > SHOWN else "")
        noun = "line" if len(others) == 1 else "lines"
        verb = "is" if len(others) == 1 else "are"
        raise PeftuError(
            f"{where}: mixed encodings: {noun} {listed} {verb} not UTF-8 but {wide:,} others are — save all as UTF-8"
        )
    return "cp1252" if _reads(path, "cp1252") else "latin-1"
