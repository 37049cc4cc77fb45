"""What becomes of rows that lack something, and of a user's answers that conflict: as asked, and counted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

if TYPE_CHECKING:
    from peftu.data.importer.rows import Rows

Conflicts = Literal["error", "first", "last", "majority", "drop"]
Missing = Literal["error", "drop"]
REPEATS = "rows that repeat an earlier one"
EMPTY = "{} is empty — fill it in, leave the row out, or pass --missing drop"
PAIR = ["user_id", "item_id"]


@dataclass(frozen=True)
class Policy:
    """What is done where a table is not whole, or not of one mind.

    Attributes:
        conflicts: of a user's answers on one item that differ: 'error', keep the 'first' or the 'last' (by time where
            the table has times), the 'majority' (none where it is tied), or 'drop' them all.
        missing: of rows without a user, a text or a label: 'error' or 'drop'.
    """

    conflicts: Conflicts = "error"
    missing: Missing = "error"


def settle(rows: "Rows", policy: Policy) -> None:
    """Leaves out rows that lack something where that is asked for, rows that repeat, and conflicts; counts them."""
    frame = rows.frame.with_row_index("row", 1)
    if policy.missing == "drop" and rows.missing:
        for what, numbers in rows.missing.items():
            rows.left_out[f"rows without a {what} (--missing drop)"] = len(numbers)
        dropped = {row for numbers in rows.missing.values() for row in numbers}
        frame = frame.filter(~pl.col("row").is_in(list(dropped)))
        rows.problems = [problem for problem in rows.problems if problem[0] not in dropped]
    else:
        dropped = set()
    answers = frame.with_columns(answer=pl.col("target").list.sort().list.join("\x1f"))
    distinct = answers.unique([*PAIR, "answer"], keep="first", maintain_order=True)
    disputed = distinct.filter(pl.struct(PAIR).is_duplicated()).select(PAIR).unique()
    if disputed.height and policy.conflicts == "error":
        _refuse(rows, distinct)
    elif disputed.height:
        conflicting = answers.join(disputed, on=PAIR)
        kept = _kept(conflicting, policy.conflicts)
        number = conflicting.join(kept, on=[*PAIR, "answer"], how="anti").height
        rows.left_out[f"answers that conflict with another of the same user (--conflicts {policy.conflicts})"] = number
        distinct = pl.concat([distinct.join(disputed, on=PAIR, how="anti"), kept]).sort("row")
        answers = answers.head(answers.height - number)
    if answers.height > distinct.height:
        rows.left_out[REPEATS] = answers.height - distinct.height
    if not rows.problems:
        rows.frame = distinct.select(rows.frame.columns)


def _refuse(rows: "Rows", distinct: pl.DataFrame) -> None:
    """Adds a problem for each answer that conflicts with an earlier one."""
    wrong = {row for row, _ in rows.problems}
    again = distinct.with_columns(pl.col("row").min().over(PAIR).alias("earlier"))
    mend = "keep one, or pass --conflicts first, last, majority or drop"
    if "item" not in rows.roles.column:
        mend = "keep one, or pass --item COLUMN to tell the texts apart, or --conflicts"
    for row, earlier in again.filter(pl.col("row") != pl.col("earlier")).select("row", "earlier").iter_rows():
        if row not in wrong and earlier not in wrong:
            rows.problems.append((row, f"is by the user and on the text of row {earlier}, with another label — {mend}"))


def _kept(disputed: pl.DataFrame, conflicts: Conflicts) -> pl.DataFrame:
    """Returns the rows that stay, of pairs with several answers; at most one a pair."""
    if conflicts == "drop":
        return disputed.clear()
    if conflicts == "majority":
        counts = disputed.group_by([*PAIR, "answer"]).agg(pl.len(), pl.col("row").min())
        most = counts.filter(pl.col("len") == pl.col("len").max().over(PAIR))
        clear = most.filter(pl.len().over(PAIR) == 1)
        return disputed.join(clear.select("row"), on="row")
    ordered = disputed.sort("time", "row", nulls_last=conflicts == "first", maintain_order=True)
    return ordered.unique(PAIR, keep="first" if conflicts == "first" else "last", maintain_order=True)
