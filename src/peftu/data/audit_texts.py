"""What a table's texts give away: labels by name, words that tell the label, texts on both sides that are alike."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from peftu.answers import OneOf
from peftu.data.near import LEAST, near_duplicates
from peftu.data.table import UserTable
from peftu.data.texts import abridged, normalise

SHORTEST_LABEL = 3  # shorter labels, such as '0' or 'no', stand in texts by chance
NAMED_ROWS, NAMED_SHARE, NAMED_GAIN = 20, 0.9, 0.2  # from where on labels named in texts are a warning
TELLTALE_ROWS, TELLTALE_SHARE = 20, 0.5
TELLTALE_TEXTS = 50_000  # distinct texts looked at
CHANCE = 1e-3  # that any word of the table tells the label by luck
SHORT = 80


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name.
        level: 'ok', 'note' (expected under this regime, or harmless) or 'warning'.
        count: how many things were found.
        of: among how many.
        message: what it means, in one sentence; never a user's key.
    """

    check: str
    level: Literal["ok", "note", "warning"]
    count: int
    of: int
    message: str


def finding(check: str, level: Literal["note", "warning"], count: int, of: int, message: str) -> Finding:
    """Returns a finding, of level 'ok' where nothing was found."""
    return Finding(check, level if count else "ok", count, of, message)


def similar_texts(frame: pl.DataFrame, regime: str) -> tuple[Finding, list[dict[str, Any]]]:
    """Returns how many distinct test texts are like, but not equal to, a training text, and the pairs.

    Case, punctuation and white space do not count; alike is a Jaccard similarity of character 5-grams of 0.8 or more.
    """
    train, test = (_distinct(frame.filter(pl.col("part") == part)["text"]) for part in ("train", "test"))
    new = [key for key in test if key not in train]
    keys = list(train)
    similar = near_duplicates(new, keys)
    pairs = [
        {
            "test": abridged(test[new[tested]], SHORT),
            "train": abridged(train[keys[trained]], SHORT),
            "similarity": round(similarity, 3),
        }
        for tested, trained, similarity in sorted(similar, key=lambda pair: (-pair[2], pair[0]))
    ]
    level: Literal["note", "warning"] = "warning" if regime == "unseen-text" else "note"
    message = f"distinct test texts that are nearly a training text (Jaccard of 5-grams at least {LEAST})"
    return finding("similar-texts", level, len(pairs), len(test), message), pairs


def labels_in_texts(table: UserTable, frame: pl.DataFrame) -> Finding:
    """Returns how many distinct texts hold a label's name; a warning where the name mostly is the answer."""
    labels = [label for label in table.card.labels if len(label) >= SHORTEST_LABEL]
    texts = frame["text"].unique(maintain_order=True)
    names = pl.DataFrame(
        [texts.str.contains(rf"(?i)\b{re.escape(label)}\b").alias(str(n)) for n, label in enumerate(labels)]
    )
    count = int(names.max_horizontal().sum()) if labels else 0
    message = "distinct texts that hold the name of a label as a word"
    if not count or not table.card.answers.exclusive:
        return finding("label-in-text", "note", count, len(texts), message)
    single = names.select(pl.when(pl.sum_horizontal(pl.all()) == 1).then(pl.concat_list(pl.all()).list.arg_max()))
    named = pl.DataFrame(
        {"text": texts, "named": single.to_series().replace_strict(dict(enumerate(labels)), default=None)}
    )
    rows = frame.select("text", answer=pl.col("target").list.first()).join(named.drop_nulls(), on="text")
    shares = frame["target"].list.first().value_counts(normalize=True, name="share")
    expected = rows.join(shares, left_on="named", right_on="target", how="left")["share"].fill_null(0).to_numpy()
    right = (rows["answer"] == rows["named"]).to_numpy()
    if len(right) >= NAMED_ROWS and right.mean() >= max(NAMED_SHARE, expected.mean() + NAMED_GAIN):
        message += f"; {right.mean():.0%} of the answers are the label named, {expected.mean():.0%} would be by chance"
        return finding("label-in-text", "warning", count, len(texts), message)
    return finding("label-in-text", "note", count, len(texts), message)


def telltale_words(table: UserTable, frame: pl.DataFrame) -> Finding:
    """Returns how many rows have a word whose every text got one and the same label, more often than by luck."""
    check, message = (
        "telltale-words",
        "rows with a word that one label alone goes with; is the label written in the text?",
    )
    if not isinstance(table.card.answers, OneOf):
        return finding(check, "note", 0, frame.height, message)
    rows = frame.select("text", answer=pl.col("target").list.first())
    share = rows["answer"].value_counts(normalize=True, name="share")
    texts = rows["text"].unique(maintain_order=True).head(TELLTALE_TEXTS)
    words = (
        pl.DataFrame({"text": texts, "word": texts.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}_]+").list.unique()})
        .explode("word")
        .drop_nulls()
    )
    answers = (
        rows.join(pl.DataFrame({"text": texts}), on="text")
        .group_by("text")
        .agg(pl.len().alias("rows"), pl.col("answer").n_unique().alias("answers"), pl.col("answer").first())
    )
    by_word = (
        words.join(answers, on="text")
        .group_by("word")
        .agg(
            pl.col("rows").sum(),
            pl.len().alias("texts"),
            pl.col("answers").max(),
            pl.col("answer").n_unique().alias("kinds"),
            pl.col("answer").first(),
        )
    )
    pure = by_word.filter(pl.col("answers") == 1, pl.col("kinds") == 1, pl.col("texts") >= TELLTALE_ROWS).join(
        share, on="answer"
    )
    luck = math.log(CHANCE / max(1, by_word.height))
    telling = pure.filter(pl.col("texts") * pl.col("share").log() < luck)["word"].to_list()
    telling_texts = words.filter(pl.col("word").is_in(telling))["text"].unique().to_list()
    count = int(rows["text"].is_in(telling_texts).sum())
    level: Literal["note", "warning"] = "warning" if count >= TELLTALE_SHARE * frame.height else "note"
    return finding(check, level, count, frame.height, message)


def _distinct(texts: pl.Series) -> dict[str, str]:
    """Returns normalised text -> text, in order of appearance."""
    by_key: dict[str, str] = {}
    for text in texts.unique(maintain_order=True):
        by_key.setdefault(normalise(text), text)
    return by_key
