"""What a reader should know about a table and its split before believing a score on it."""

import re
from dataclasses import dataclass
from typing import Literal

import polars as pl

from peftu.data.splits import Split
from peftu.data.table import UserTable

SHORTEST_LABEL = 3  # shorter labels, such as '0' or 'no', stand in texts by chance


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


def audit(table: UserTable, split: Split) -> list[Finding]:
    """Returns one finding per check, the warnings first."""
    frame = split.frame.join(table.frame, on=["user_id", "item_id"], how="left", maintain_order="left")
    found = [
        *_overlaps(split),
        _constant_users(frame),
        _twin_users(frame),
        _labels_in_texts(table, frame),
        _left_out(table, split),
    ]
    order = ("warning", "note", "ok")
    return sorted(found, key=lambda finding: order.index(finding.level))


def _finding(check: str, level: Literal["note", "warning"], count: int, of: int, message: str) -> Finding:
    return Finding(check, level if count else "ok", count, of, message)


def _overlaps(split: Split) -> list[Finding]:
    leakage, rows = split.leakage, int(split.leakage["test_rows"])
    unseen = split.regime == "unseen-text"
    items = split.frame.filter(pl.col("part") == "test")["item_id"].n_unique()

    def number(key: str, of: int = rows) -> int:
        return round(leakage[key] * of)

    return [
        _finding(
            "text-seen-same-user",
            "warning",
            number("text_seen_same_user"),
            rows,
            "test rows whose text, but for spelling, the same user trained on",
        ),
        _finding(
            "text-seen-other-users",
            "warning" if unseen else "note",
            number("text_seen_other_users"),
            rows,
            "test rows whose text other users trained on; a shared model may have seen them",
        ),
        _finding(
            "context-seen", "note", number("context_seen"), rows, "test rows whose context stands in training rows"
        ),
        _finding(
            "item-overlap",
            "warning" if unseen else "note",
            number("item_overlap", items),
            items,
            "test items that are training items of some user",
        ),
        _finding(
            "near-duplicates",
            "warning",
            int(leakage["near_duplicates"]),
            rows,
            "distinct test texts that differ from a training text in case, punctuation or white space only",
        ),
    ]


def _constant_users(frame: pl.DataFrame) -> Finding:
    kinds = frame.group_by("user_id").agg(pl.col("target").n_unique())["target"]
    message = "users who always give the same answer; their commonest label is never wrong"
    return _finding("constant-users", "warning", int((kinds == 1).sum()), len(kinds), message)


def _twin_users(frame: pl.DataFrame) -> Finding:
    answers = (
        frame.select("user_id", "item_id", pl.col("target").list.join("\x1f"))
        .group_by("user_id", maintain_order=True)
        .agg("item_id", "target")
    )
    seen = [(tuple(items), tuple(labels)) for items, labels in answers.select("item_id", "target").iter_rows()]
    message = "users whose answers to the same items equal another user's in every row"
    return _finding("twin-users", "warning", len(seen) - len(set(seen)), len(seen), message)


def _labels_in_texts(table: UserTable, frame: pl.DataFrame) -> Finding:
    labels = [re.escape(label) for label in table.card.labels if len(label) >= SHORTEST_LABEL]
    texts = frame["text"].unique()
    pattern = rf"(?i)\b(?:{'|'.join(labels)})\b"
    count = int(texts.str.contains(pattern).sum()) if labels else 0
    return _finding(
        "label-in-text", "note", count, len(texts), "distinct texts that hold the name of a label as a word"
    )


def _left_out(table: UserTable, split: Split) -> Finding:
    reasons = "; ".join(f"{reason}: {number}" for reason, number in {**split.excluded, **split.notes}.items())
    message = f"users left out of the split ({reasons})" if reasons else "users left out of the split"
    return _finding("users-left-out", "note", sum(split.excluded.values()), table.frame["user_id"].n_unique(), message)
