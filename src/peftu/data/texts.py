"""When two texts are the same but for spelling."""

import string

import polars as pl

# ASCII only, so that no Unicode version of a Python or a library can move a text from one part to another.
_PLAIN = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)


def normalise(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation, one space between words; never empty for a text."""
    return " ".join(text.translate(_PLAIN).split()) or text.strip()


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
