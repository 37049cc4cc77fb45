"""What every command prints: results on stdout, remarks on stderr, one JSON object where asked."""

import codecs
import json
import logging
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from peftu.errors import PeftuError
from peftu.outside import shown

_PLAIN = dict(zip("—\N{EN DASH}\N{MINUS SIGN}─…·±\u202f", ("-", "-", "-", "-", "...", "*", "+/-", " "), strict=True))


class SafeConsole(Console):
    """A console on which people's texts and names are shown: no markup, no emoji codes, nothing that is obeyed."""

    def __init__(self, **options: Any) -> None:
        # No markup: rich would take the knobs of 'lora[rank=4]' for a style and leave them out.
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text to be printed, wherever it stands: alone, in a cell, in a heading."""
        return super().render_str(shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the pieces of what is printed; text that was made elsewhere is shown, too."""
        if isinstance(renderable, Text) and shown(renderable.plain) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = shown(renderable.plain)
        return super().render(renderable, options)


stdout = SafeConsole()
stderr = SafeConsole(stderr=True, highlight=False)


def emit(result: Any, as_json: bool, *human: RenderableType) -> None:
    """Prints one JSON value, or what a person reads."""
    if as_json:
        print(as_line(result, ascii_only=not can_say("é—\u4e2d")))  # noqa: T201
    else:
        for part in human:
            stdout.print(part, soft_wrap=isinstance(part, str))  # a path stays in one piece


def as_line(result: Any, *, ascii_only: bool = False) -> str:
    """Returns a value as one line of JSON, in which nothing is left for a terminal to obey."""
    line = json.dumps(result, ensure_ascii=ascii_only, allow_nan=False)
    obeyed = {character for character in re.findall(r"[^ -~]", line) if shown(character) != character}
    return line.translate({ord(character): json.dumps(character)[1:-1] for character in obeyed})


def can_say(text: str) -> bool:
    """Returns whether standard output can encode a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def say_anything() -> None:
    """Lets output go on where a terminal lacks a character: dashes become plain ones, others are written out."""
    codecs.register_error("peftu.plainly", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="peftu.plainly")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or ascii(character)[1:-1] for character in lacking), error.end


def check_arguments(arguments: Sequence[str]) -> None:
    """Checks that every argument is text: a record could not hold it otherwise, nor a user be found by it.

    Raises:
        PeftuError: one is not in the terminal's encoding; its option is named, and no value.
    """
    for place, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            before = arguments[place - 2] if place > 1 else ""
            name = next((word.partition("=")[0] for word in (argument, before) if word.startswith("-")), "")
            what = name if name.isascii() and name else f"argument {place}"
            encoding = sys.getfilesystemencoding()
            message = f"{what}: is no text in this terminal's encoding ({encoding}) — write it in UTF-8"
            raise PeftuError(message) from None


OUT_OF_TIME = 75  # exit code of a run that has more to do: sysexits' "try again later"


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    Attributes:
        code: exit code, as a shell gives it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and SIGHUP, while the block runs, into `Stopped`, so that what is open is closed."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    earlier = {name: signal.signal(name, stop) for name in names}
    try:
        yield
    finally:
        for name, handler in earlier.items():
            signal.signal(name, handler)


def need_torch() -> None:
    """Checks that torch is installed, and keeps transformers from drawing and remarking.

    Raises:
        PeftuError: it is not.
    """
    from peftu import environment

    environment.need_torch()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
