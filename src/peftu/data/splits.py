"""Splits into train, validation and test rows: named regimes, the same on every machine, nothing dropped in silence."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from peftu.config import SplitSpec
from peftu.data.leakage import Leakage, leakage_report
from peftu.data.problem import PARTS, Problem, Text
from peftu.data.regimes import REGIMES, Draw
from peftu.data.stratify import hashed, part_sizes
from peftu.data.table import UserTable, content_hash
from peftu.data.task import TaskCard
from peftu.errors import PeftuError

__all__ = ["Leakage", "Split", "hashed", "leakage_report", "make_problem", "make_split", "part_sizes"]


@dataclass(frozen=True, eq=False)
class Split:
    """Which part each row of a user table belongs to.

    Attributes:
        frame: user_id, item_id, part ('train', 'val', 'test'); sorted by the keys; rows of excluded users are absent.
        regime: one of ``peftu.config.Regime``.
        seed: the seed it was drawn with.
        fractions: train, validation and test share asked for.
        excluded: reason -> number of users left out for it.
        notes: rule -> number of users, kept, that it was applied to.
        leakage: what the test rows share with the training rows; see ``leakage_report``.
        hash: 'sha256:…' of the table and of every row's part.
    """

    frame: pl.DataFrame
    regime: str
    seed: int
    fractions: tuple[float, float, float]
    excluded: dict[str, int]
    notes: dict[str, int]
    leakage: Leakage
    hash: str

    @property
    def users(self) -> list[str]:
        """Returns the user keys, sorted."""
        return self.frame["user_id"].unique().sort().to_list()

    @property
    def tested(self) -> list[str]:
        """Returns the keys of users with test rows, sorted; regimes may keep others to train on."""
        return self.frame.filter(pl.col("part") == "test")["user_id"].unique().sort().to_list()

    def counts(self) -> dict[str, int]:
        """Returns the number of rows in each part."""
        return {part: self.frame.filter(pl.col("part") == part).height for part in PARTS}


def make_split(table: UserTable, spec: SplitSpec | None = None, seed: int = 0) -> Split:
    """Returns the split of a table.

    * ``within-user`` divides each user's items, stratified by label; a user's rows depend on the seed and that user's
      own rows only.
    * ``unseen-text`` divides the distinct texts of the whole table (spelling variants together), so no test text was
      trained on by anybody.
    * ``unseen-user`` draws ``spec.unseen`` of the users: k of their items train, the rest test; the rows of the
      others train and validate. With k=0 nothing of a tested user is trained on.
    * ``temporal`` divides each user's items by time: the latest are tested.
    * ``published`` takes the parts that the publisher fixed, for any seed.

    ``spec.users`` draws from the users who can be split, in the order of a hash of their keys; it changes no row of
    theirs, but in ``unseen-user``, where those drawn are divided anew.

    Raises:
        PeftuError: the spec makes no split, the regime needs what the table has not, or no user is left.
    """
    spec = spec or SplitSpec()
    draw = Draw(table, spec, _fractions(spec), seed)
    frame = REGIMES[spec.regime](draw).sort("user_id", "item_id")
    if not {"train", "test"} <= set(frame["part"]):
        raise PeftuError(f"{table.card.name}: no user has training and test rows — use more items or 'within-user'")
    rows = frame.select("user_id", "item_id", "part")
    digest = hashlib.sha256(f"{table.hash}\n{content_hash(rows)}".encode()).hexdigest()
    excluded = {reason: number for reason, number in draw.excluded.items() if number}
    notes = draw.notes | _cut(table, frame)
    return Split(rows, spec.regime, seed, spec.fractions, excluded, notes, leakage_report(frame), f"sha256:{digest}")


def make_problem(table: UserTable, card: TaskCard, split: Split) -> Problem:
    """Returns the split rows as arrays, in the order of (user, item) keys; texts in order of first appearance."""
    frame = split.frame.join(table.frame, on=["user_id", "item_id"], how="left", maintain_order="left")
    users = split.users
    texts = frame.select("text", "context").unique(maintain_order=True).with_row_index("text_number")
    frame = frame.join(texts, on=["text", "context"], how="left", nulls_equal=True, maintain_order="left")
    target = np.zeros((frame.height, len(card.labels)), np.float32)
    if card.answers.labelled:
        given = frame.select(pl.int_range(pl.len()).alias("row"), "target").explode("target")
        target[given["row"].to_numpy(), _numbers(given["target"], card.labels)] = 1
    return Problem(
        card=card,
        users=tuple(users),
        texts=tuple(Text(text, context) for text, context in texts.select("text", "context").iter_rows()),
        item_ids=tuple(frame["item_id"]),
        user=_numbers(frame["user_id"], users).astype(np.int32),
        text=frame["text_number"].to_numpy().astype(np.int32),
        part=_numbers(frame["part"], PARTS).astype(np.int8),
        target=target,
        split_hash=split.hash,
        answers=() if card.answers.labelled else tuple(frame["target"].list.first()),
    )


def _numbers(column: pl.Series, names: Iterable[str]) -> Any:
    order = {name: number for number, name in enumerate(names)}
    return column.replace_strict(order, return_dtype=pl.Int64).to_numpy()


def _fractions(spec: SplitSpec) -> tuple[Fraction, ...]:
    """Returns the shares, adding up to exactly 1, after checking the spec."""
    shares = tuple(Fraction(str(share)) for share in spec.fractions)
    total = sum(shares, Fraction())
    if any(share < 0 for share in shares) or not shares[0] or not shares[2] or abs(total - 1) > Fraction(1, 10**6):
        listed = ", ".join(map(str, spec.fractions))
        raise PeftuError(
            f"split: fractions ({listed}) — give train, val and test shares that add up to 1; val may be 0"
        )
    if spec.min_items < 3:
        raise PeftuError(f"split: min_items is {spec.min_items} — train, val and test need 3 items at least")
    if spec.k is not None and spec.regime != "unseen-user":
        raise PeftuError(f"split: k={spec.k} — k is for regime unseen-user, and this is {spec.regime}")
    return tuple(share / total for share in shares)


def _cut(table: UserTable, frame: pl.DataFrame) -> dict[str, int]:
    """Returns how many users of the split had more items in the table."""
    had, have = (rows.group_by("user_id").len() for rows in (table.frame, frame))
    cut = had.join(have, on="user_id").filter(pl.col("len") > pl.col("len_right"))
    return {f"cut to {cut['len_right'][0]} items": cut.height} if cut.height else {}
