"""What a reader should know about a table and its split before believing a score on it."""

from typing import Any

import polars as pl

from peftu.data.audit_texts import Finding, finding, labels_in_texts, similar_texts, telltale_words
from peftu.data.problem import PARTS
from peftu.data.splits import Split
from peftu.data.table import UserTable

SHOWN_PAIRS = 3


def audit(table: UserTable, split: Split) -> list[Finding]:
    """Returns one finding per check, the warnings first."""
    return audit_report(table, split)[0]


def audit_report(table: UserTable, split: Split) -> tuple[list[Finding], dict[str, list[dict[str, Any]]]]:
    """Returns one finding per check, the warnings first, and tables of detail.

    The tables are ``parts``: each part's size, and how many of its items several users judged; ``similar_texts``: some
    test texts with the training texts that they resemble.
    """
    frame = split.frame.join(table.frame, on=["user_id", "item_id"], how="left", maintain_order="left")
    similar, pairs = similar_texts(frame, split.regime)
    findings = [
        *_overlaps(split),
        similar,
        _constant_users(frame),
        _twin_users(frame),
        labels_in_texts(table, frame),
        telltale_words(table, frame),
        _left_out(table, split),
    ]
    order = ("warning", "note", "ok")
    findings.sort(key=lambda check: order.index(check.level))
    return findings, {"parts": parts(frame), "similar_texts": pairs[:SHOWN_PAIRS]}


def parts(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Returns for each part of a split: rows, users, items, items that several users judged, and users an item."""
    part_sizes = []
    for part in PARTS:
        rows = frame.filter(pl.col("part") == part)
        items = rows.group_by("item_id").len()["len"]
        sizes = {"rows": rows.height, "users": rows["user_id"].n_unique(), "items": len(items)}
        shared = {"shared_items": int((items > 1).sum()), "users_per_item": rows.height / max(1, len(items))}
        part_sizes.append({"part": part, **sizes, **shared})
    return part_sizes


def _overlaps(split: Split) -> list[Finding]:
    leakage, rows = split.leakage, int(split.leakage["test_rows"])
    unseen = split.regime == "unseen-text"
    items = split.frame.filter(pl.col("part") == "test")["item_id"].n_unique()

    def number(key: str, of: int = rows) -> int:
        return round(leakage[key] * of)

    return [
        finding(
            "text-seen-same-user",
            "warning",
            number("text_seen_same_user"),
            rows,
            "test rows whose text, but for spelling, the same user trained on",
        ),
        finding(
            "text-seen-other-users",
            "warning" if unseen else "note",
            number("text_seen_other_users"),
            rows,
            "test rows whose text other users trained on; a shared model may have seen them",
        ),
        finding(
            "context-seen", "note", number("context_seen"), rows, "test rows whose context stands in training rows"
        ),
        finding(
            "item-overlap",
            "warning" if unseen else "note",
            number("item_overlap", items),
            items,
            "test items that are training items of some user",
        ),
        finding(
            "near-duplicates",
            "warning",
            int(leakage["near_duplicates"]),
            rows,
            "distinct test texts that differ from a training text in case, punctuation or white space only",
        ),
        *_users_and_times(split),
    ]


def _users_and_times(split: Split) -> list[Finding]:
    leakage, rows = split.leakage, int(split.leakage["test_rows"])
    seen = round(leakage["user_seen"] * rows)
    findings = [finding("user-seen", "note", seen, rows, "test rows of users with training rows of their own")]
    messages = {
        "later_same_user": "test rows with a later training row of the same user; temporal rules them out",
        "later_other_users": "test rows with a later training row of another user; a shared model knows the future",
    }
    for key, message in messages.items():
        if key in leakage:
            warns = split.regime == "temporal" and key == "later_same_user"
            count = round(leakage[key] * rows)
            findings.append(finding(key.replace("_", "-"), "warning" if warns else "note", count, rows, message))
    return findings


def _constant_users(frame: pl.DataFrame) -> Finding:
    kinds = frame.group_by("user_id").agg(pl.col("target").n_unique())["target"]
    message = "users who always give the same answer; their commonest label is never wrong"
    return finding("constant-users", "warning", int((kinds == 1).sum()), len(kinds), message)


def _twin_users(frame: pl.DataFrame) -> Finding:
    answers = (
        frame.select("user_id", "item_id", pl.col("target").list.join("\x1f"))
        .group_by("user_id", maintain_order=True)
        .agg("item_id", "target")
    )
    seen = [(tuple(items), tuple(labels)) for items, labels in answers.select("item_id", "target").iter_rows()]
    message = "users whose answers to the same items equal another user's in every row"
    return finding("twin-users", "warning", len(seen) - len(set(seen)), len(seen), message)


def _left_out(table: UserTable, split: Split) -> Finding:
    reasons = "; ".join(f"{reason}: {number}" for reason, number in {**split.excluded, **split.notes}.items())
    message = f"users left out of the split ({reasons})" if reasons else "users left out of the split"
    return finding("users-left-out", "note", sum(split.excluded.values()), table.frame["user_id"].n_unique(), message)
