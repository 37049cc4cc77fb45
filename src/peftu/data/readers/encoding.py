"""How a text file is encoded: a byte order mark, UTF-8, UTF-16 without a mark, or an older codec on clear evidence."""

import codecs
import re
import unicodedata
from pathlib import Path

from charset_normalizer import from_bytes

from peftu.errors import PeftuError

# Codecs that tables are still written in, the commonest first. Those of DOS and old Macs are left to --encoding.
CODECS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "gb18030", "big5",
          "cp932", "euc_jp", "cp949"]  # fmt: skip
COHERENT, MARGIN = 0.3, 0.25  # of the frequencies of letters with a language's, by charset-normalizer
LEAST_WIDE = 6
SAMPLE = 1 << 18  # bytes
SHOWN_CODECS = 4
WORD = re.compile(r"[^\W\d_]+")
ODD = re.compile(  # control characters, frames, and signs within words but for apostrophes and dashes
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2500-\u259f]"
    "|\\w[^\\w\\s\x00-\x7f\u2019\u2010-\u2014\u2026\u3000-\u303f\uff00-\uffef]{1,3}\\w"
)
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

    Raises:
        PeftuError: some lines are UTF-8 and others are not, or several older codecs read it, each otherwise.
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
    return "utf-8" if _reads(path, "utf-8") else _older(path, where)


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


def _older(path: Path, where: Path) -> str:
    wide, others, sample = 0, [], b""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.isascii():
                continue
            try:
                line.decode()
                wide += 1
            except UnicodeDecodeError:
                others.append(number)
                sample += line if len(sample) < SAMPLE else b""
    if wide:
        listed = ", ".join(map(str, others[:SHOWN])) + (", …" if len(others) > SHOWN else "")
        noun = "line" if len(others) == 1 else "lines"
        verb = "is" if len(others) == 1 else "are"
        raise PeftuError(
            f"{where}: mixed encodings: {noun} {listed} {verb} not UTF-8 but {wide:,} others are — save all as UTF-8"
        )
    codec = _told_by(sample)
    if codec is None or not _reads(path, codec):
        known = ", ".join(list(_plausible(sample))[:SHOWN_CODECS]) or "none that is usual"
        raise PeftuError(
            f"{where}: is not UTF-8, and what it is cannot be told (codecs that read it: {known}) — pass --encoding"
        )
    return codec


def _told_by(sample: bytes) -> str | None:
    """Returns the codec of lines that are not UTF-8, where all that read them agree or one clearly reads a language."""
    plausible = _plausible(sample)
    first = next(iter(plausible), "")
    damaged = not sample.decode(errors="ignore").isascii()  # UTF-8, but for some bytes
    if len(set(plausible.values())) == 1 and first.startswith("cp125") and not damaged:
        return first
    matches = [match for match in from_bytes(sample, cp_isolation=CODECS) if match.encoding in plausible]
    if not matches:
        return None
    scores = {str(match): match.coherence - match.chaos for match in reversed(matches)}
    best, *others = sorted(matches, key=lambda match: -scores[str(match)])
    rivals = [match for match in others if str(match) != str(best)]
    score = scores[str(best)]
    clear = score >= COHERENT and all(scores[str(match)] <= score - MARGIN for match in rivals)
    wide = sum(character > "\u2e7f" for character in str(best))  # East Asian: no frequencies of letters to go by
    if clear or (wide >= LEAST_WIDE and not rivals and not best.chaos):
        return next(codec for codec, text in plausible.items() if text == str(best) or codec == best.encoding)
    return None


def _plausible(sample: bytes) -> dict[str, str]:
    """Returns codec -> text, for codecs under which lines hold nothing odd and no word of two scripts."""
    texts = {}
    for codec in CODECS:
        try:
            text = sample.decode(codec)
        except UnicodeDecodeError:
            continue
        if not ODD.search(text) and not any(map(_of_two_scripts, WORD.findall(text))):
            texts[codec] = text
    return texts


def _of_two_scripts(word: str) -> bool:
    scripts = {unicodedata.name(letter, "?").partition(" ")[0] for letter in word}
    return len(scripts - {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH"}) > 1
