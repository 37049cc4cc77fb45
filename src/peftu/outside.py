"""What comes from outside: only plain files are read, JSON and YAML of any shape, and texts are shown, not obeyed."""

import ast
import json
import re
import reprlib
import stat
from pathlib import Path
from typing import Any

from peftu.errors import PeftuError

DEEPEST = 100  # brackets within brackets; what is written out again must not exhaust the stack
LARGEST = 1e100  # no measurement is larger, and its square is still a number

# What a terminal or a page would obey, or what neither can hold: control characters, line and paragraph separators,
# bidirectional controls, halves of characters, noncharacters. Tabs and line breaks may stand in a text.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
CONTROLS = r"[\p{Cc}\x{FFFE}\x{FFFF}]"  # for polars: no name, key or label may hold one
_HALVES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
HALF = "holds half a character (a lone surrogate)"
_quote = reprlib.Repr()
_quote.maxstring = _quote.maxother = 80


def shown(text: str) -> str:
    r"""Returns the text as it may be printed: characters that would be obeyed are written out, as ``\x1b``."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text.replace("\r\n", "\n"))


def quoted(value: object) -> str:
    """Returns a value for a message: short, on one line and without characters that a terminal would obey."""
    try:
        return _quote.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number too long to write"


def is_plain(name: str) -> bool:
    """Returns whether a name, key or label holds nothing that a line of text cannot: no break, no control character."""
    return not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", name)


def is_endless(path: Path) -> bool:
    """Returns whether a path is a pipe, a socket or a device: it may never end. One that is missing is not."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a link to nothing, too
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def plain_file(path: Path) -> Path:
    """Returns the path of a file that may be opened; one that is missing is left for whoever opens it.

    Raises:
        PeftuError: it is a pipe, a socket or a device: it may never end, and can be read once only.
    """
    if is_endless(path):
        raise PeftuError(f"{path}: is a pipe or a device — write what it gives to a file, and pass that")
    return path


def parse_json(text: str | bytes, *, finite: bool = False, halves: bool = False) -> Any:
    """Returns what JSON text holds.

    Args:
        text: as str, or as UTF-8, UTF-16 or UTF-32 bytes.
        finite: refuse NaN, infinities and numbers beyond `LARGEST`.
        halves: let lone surrogates stand; the caller tells where they are.

    Raises:
        json.JSONDecodeError: it is no JSON.
        ValueError: it is not fit to be read: nested too deeply, a number with thousands of digits, half a character.
    """
    hooks: dict[str, Any] = {}
    if finite:
        hooks = {"parse_constant": _refused, "parse_float": _measured(float), "parse_int": _measured(int)}
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if raw.count(b"[") + raw.count(b"{") > DEEPEST:
        _check_depth(value)
    if not halves and has_half_escapes(raw) and not is_whole(value):
        raise ValueError(HALF)
    return value


def parse_literal(text: str) -> Any:
    """Returns what a cell holds that is written as JSON, or as Python writes lists and objects.

    Raises:
        ValueError: it is neither.
    """
    for parse in (parse_json, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # TypeError: {[1]: 2}
            continue
    raise ValueError("is neither JSON nor a Python literal")


def parse_yaml(text: str) -> Any:
    """Returns what YAML text holds; only plain values are made.

    Raises:
        ValueError: it is no YAML, or nested too deeply; the message is one line.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    _check_depth(value)
    return value


def has_half_escapes(raw: bytes) -> bool:
    r"""Returns whether JSON bytes seem to write half a character, as ``\ud800`` alone."""
    return _HALVES.search(raw) is not None


def is_whole(value: Any) -> bool:
    """Returns whether every text in a JSON value can be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(value: Any) -> None:
    """Refuses what is nested too deeply, or holds itself (as YAML can)."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [node for node in level if isinstance(node, dict | list)]
        if not inner:
            return
        # What YAML names twice is one object: it is looked at once.
        distinct = {id(node): node for node in inner}.values()
        level = [each for node in distinct for each in (node.values() if isinstance(node, dict) else node)]
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def _refused(name: str) -> Any:
    raise ValueError(f"holds {name}, which is no measurement")


def _measured(kind: Any) -> Any:
    def read(digits: str) -> Any:
        value = kind(digits)
        if not abs(value) <= LARGEST:  # NaN is not, either
            raise ValueError(f"holds the number {digits[:20]}, which is no measurement")
        return value

    return read
