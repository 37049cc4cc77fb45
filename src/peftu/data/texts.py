"""When two texts are the same but for spelling, and which names may stand in a table."""

import string
from collections import Counter
from collections.abc import Iterable

import polars as pl

from peftu.outside import CONTROLS, parse_json
from peftu.registry import same_form

# ASCII only, so that no Unicode version of a Python or a library can move a text from one part to another.
_PLAIN = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)


def normalise(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation, one space between words; never empty for a text."""
    return " ".join(text.translate(_PLAIN).split()) or text.strip()


def abridged(text: str, longest: int) -> str:
    """Returns the text on one line, cut so that it has at most so many characters."""
    plain = " ".join(text.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def distinct_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the distinct (text, context) pairs of a frame, in order of appearance, with ``text_key``.

    Pairs that differ only in case, ASCII punctuation or white space have one key.
    """
    pairs = frame.select("text", "context").unique(maintain_order=True)
    keys = [f"{normalise(context or '')}\x1e{normalise(text)}" for text, context in pairs.iter_rows()]
    return pairs.with_columns(pl.Series("text_key", keys, pl.String))


def with_text_keys(frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the frame with column ``text_key``; same rows, same order."""
    return frame.join(
        distinct_texts(frame), on=["text", "context"], how="left", nulls_equal=True, maintain_order="left"
    )


def with_controls(names: pl.Series) -> list[int]:
    """Returns the rows, from 0, whose name (of a user, an item, a label, a method) holds a control character.

    What draws charts breaks off at them, and a name with a line break in it is no name in a table.
    """
    return names.str.contains(CONTROLS).fill_null(value=False).arg_true().to_list()


def twins_notes(frame: pl.DataFrame, labels: Iterable[str]) -> list[str]:
    """Returns remarks on keys and labels that look the same, differ in Unicode form only, and so count apart.

    Args:
        frame: with user_id and item_id.
        labels: the label set.
    """
    users, items = (frame[name].drop_nulls().unique() for name in ("user_id", "item_id"))
    notes = []
    for what, names in (("user keys", users), ("item keys", items), ("labels", labels)):
        alike = [number for number in Counter(map(same_form, names)).values() if number > 1]
        if alike:
            count = f"{sum(alike):,} {what} look like {len(alike):,} and count apart"
            notes.append(f"{count}: they differ in Unicode form only (NFC, NFD) — normalise the file to join them")
    return notes


def is_object(text: str) -> bool:
    """Returns whether a text is a JSON object, as ``meta`` must be; NaN, which Python writes by default, is no JSON."""
    try:
        return isinstance(parse_json(text, finite=True), dict)
    except ValueError:
        return False
