"""The regimes: which rows of a table train, validate and test. All draws are by hash, so row order changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import polars as pl

from peftu.config import Regime, SplitSpec
from peftu.data.leakage import sides
from peftu.data.problem import PARTS
from peftu.data.stratify import deal, deal_multi, hashed, part_sizes, rounded_sizes
from peftu.data.table import UserTable
from peftu.data.task import TaskCard
from peftu.data.texts import distinct_texts
from peftu.errors import PeftuError

DEFAULT_K = 5
FILLED = "a part that would be empty got one item, taken from the largest"


@dataclass
class Draw:
    """A split in the making.

    Attributes:
        table: what is split.
        spec: how.
        fractions: train, validation and test share, adding up to 1.
        seed: of the draw.
        excluded: reason -> number of users left out for it; a regime adds its own.
        notes: rule -> number of users, kept, that it was applied to.
    """

    table: UserTable
    spec: SplitSpec
    fractions: tuple[Fraction, ...]
    seed: int
    excluded: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Returns the task's name, for messages."""
        return self.table.card.name

    def eligible(self) -> pl.DataFrame:
        """Returns the rows of users with ``min_items`` items; the others are counted."""
        items, least = self.table.frame.group_by("user_id").len(), self.spec.min_items
        enough = items.filter(pl.col("len") >= least)["user_id"].to_list()
        if not enough:
            most = max(items["len"].to_list())
            raise PeftuError(f"{self.name}: no user has {least} items (most: {most}) — lower min_items")
        self.excluded[f"fewer than {least} items"] = items.height - len(enough)
        return self.table.frame.filter(pl.col("user_id").is_in(enough))

    def drawn(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Returns the rows of at most ``users`` users; the others are counted."""
        number = self.spec.users
        if number is None:
            return frame
        users = sorted(frame["user_id"].unique(), key=lambda user: (hashed("user", user), user))
        self.excluded[f"not among the {number} drawn"] = len(users[number:])
        return frame.filter(pl.col("user_id").is_in(users[:number]))

    def capped(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Returns at most ``max_items`` rows a user, the same for every seed."""
        if self.spec.max_items is None:
            return frame
        ranks = [hashed("item", user, item) for user, item in frame.select("user_id", "item_id").iter_rows()]
        place = pl.col("rank").rank("ordinal").over("user_id")
        drawn = frame.with_columns(pl.Series("rank", ranks, pl.UInt64)).filter(place <= self.spec.max_items)
        return drawn.drop("rank")

    def note(self, rule: str, users: int) -> None:
        """Counts users, kept, that a rule was applied to."""
        if users:
            self.notes[rule] = self.notes.get(rule, 0) + users


def within_user(draw: Draw) -> pl.DataFrame:
    """Returns each user's items divided by the fractions, stratified by label."""
    frame = draw.capped(draw.drawn(draw.eligible()))
    parts, filled = dealt_parts(draw.table.card, frame, draw.fractions, draw.seed)
    draw.note(FILLED, filled)
    return frame.with_columns(pl.Series("part", parts, pl.String))


def unseen_text(draw: Draw) -> pl.DataFrame:
    """Returns the rows by a division of the table's distinct texts; spelling variants stay together."""
    frame = draw.capped(draw.eligible())
    texts = distinct_texts(draw.table.frame)
    keys = sorted(texts["text_key"].unique(), key=lambda key: (hashed(draw.seed, key), key))
    sizes = part_sizes(len(keys), draw.fractions)
    parts = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    part_of = pl.DataFrame({"text_key": keys, "part": parts}, {"text_key": pl.String, "part": pl.String})
    text_parts = texts.join(part_of, on="text_key").drop("text_key")
    frame = frame.join(text_parts, on=["text", "context"], how="left", nulls_equal=True)
    users, train, test = (set(rows["user_id"]) for rows in (frame, *sides(frame, "train", "test")))
    draw.excluded["no training rows"] = len(users - train)
    draw.excluded["no test rows"] = len((users & train) - test)
    frame = draw.drawn(frame.filter(pl.col("user_id").is_in(list(train & test))))
    if draw.fractions[1]:
        (val,) = sides(frame, "val")
        draw.note("kept without validation rows", len(set(frame["user_id"]) - set(val["user_id"])))
    return frame


def unseen_user(draw: Draw) -> pl.DataFrame:
    """Returns k training items and otherwise test items of unseen users; the others' rows train and validate.

    Who is unseen and the order in which an unseen user's items are taken for training do not depend on k, but that
    users without more than k items cannot be unseen. So runs with rising k differ in the added items alone.
    """
    frame = draw.capped(draw.drawn(draw.eligible()))
    k = DEFAULT_K if draw.spec.k is None else draw.spec.k
    items = frame.group_by("user_id").len()
    able = items.filter(pl.col("len") > k)["user_id"].to_list()
    if items.height < 2:
        raise PeftuError(f"{draw.name}: unseen-user needs two users at least, one to train on — take more users")
    if not able:
        raise PeftuError(f"{draw.name}: no user has more than k={k} items — lower k")
    number = min(max(1, int(items.height * Fraction(str(draw.spec.unseen)) + Fraction(1, 2))), items.height - 1)
    unseen = sorted(able, key=lambda user: (hashed(draw.seed, "unseen", user), user))[:number]
    draw.note(f"with {k} items or fewer, so never unseen", items.height - len(able))
    is_unseen = pl.col("user_id").is_in(unseen)
    train, val, _ = draw.fractions
    seen = frame.filter(~is_unseen)
    parts, filled = dealt_parts(
        draw.table.card, seen, (train / (train + val), val / (train + val), Fraction(0)), draw.seed
    )
    draw.note(FILLED, filled)
    seen = seen.with_columns(pl.Series("part", parts, pl.String))
    place = _ranked(frame.filter(is_unseen), draw.seed).with_columns(pl.int_range(pl.len()).over("user_id").alias("at"))
    first = place.with_columns(pl.when(pl.col("at") < k).then(pl.lit("train")).otherwise(pl.lit("test")).alias("part"))
    return pl.concat([seen, first.select(seen.columns)])


def temporal(draw: Draw) -> pl.DataFrame:
    """Returns each user's items in order of time: the earliest train, then validation, the latest test."""
    frame = draw.table.frame
    missing = frame["time"].null_count()
    if missing:
        which = "its rows have no time" if missing == frame.height else f"{missing:,} of its rows have no time"
        raise PeftuError(f"{draw.name}: {which} — choose another regime, such as within-user")
    frame = _ranked(draw.capped(draw.drawn(draw.eligible())), draw.seed, "time")
    parts: list[str] = []
    filled = 0
    for number in frame.group_by("user_id", maintain_order=True).len()["len"]:
        sizes = part_sizes(number, draw.fractions)
        filled += sizes != rounded_sizes(number, draw.fractions)
        parts += [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    draw.note(FILLED, filled)
    return frame.with_columns(pl.Series("part", parts, pl.String))


def published(draw: Draw) -> pl.DataFrame:
    """Returns the publisher's own parts, which stand in ``meta`` under 'split'.

    ``min_items`` does not apply, since a number is comparable with published ones only on all of the test rows.
    """
    part = pl.col("meta").str.json_path_match("$.split")
    frame = draw.table.frame.with_columns(part.alias("part"))
    without = frame["part"].null_count()
    if without:
        which = "its publisher fixed no split" if without == frame.height else f"{without:,} rows have no 'split'"
        raise PeftuError(f"{draw.name}: {which} — choose another regime, such as within-user")
    other = frame.filter(~pl.col("part").is_in(PARTS))["part"]
    if len(other):
        shown = sorted(set(other))[0][:40]
        raise PeftuError(f"{draw.name}: 'split' is {shown!r} in {len(other):,} rows — write train, val or test")
    lacking = [name for name in ("train", "test") if name not in set(frame["part"])]
    if lacking:
        raise PeftuError(f"{draw.name}: the rows hold no '{lacking[0]}' part — get all of the publisher's files")
    if draw.spec.users is not None:
        tested = set(sides(frame, "test")[0]["user_id"])
        draw.excluded["no test rows"] = frame["user_id"].n_unique() - len(tested)
        frame = draw.drawn(frame.filter(pl.col("user_id").is_in(list(tested))))
    frame = draw.capped(frame)
    users, train, test = (set(rows["user_id"]) for rows in (frame, *sides(frame, "train", "test")))
    draw.note("kept without test rows", len(users - test))
    draw.note("kept without training rows", len(users - train))
    return frame


REGIMES: dict[Regime, Callable[[Draw], pl.DataFrame]] = {
    "within-user": within_user,
    "unseen-text": unseen_text,
    "unseen-user": unseen_user,
    "temporal": temporal,
    "published": published,
}


def dealt_parts(card: TaskCard, frame: pl.DataFrame, fractions: Sequence[Fraction], seed: int) -> tuple[list[str], int]:
    """Returns the part of each row (sorted by user) and how often a part had to be filled up to one item."""
    parts: list[str] = []
    filled = 0
    places = {label: place for place, label in enumerate(card.labels)}
    for rows in frame.select("user_id", "item_id", "target").partition_by("user_id", maintain_order=True):
        user = rows["user_id"][0]
        sizes = part_sizes(rows.height, fractions)
        filled += sizes != rounded_sizes(rows.height, fractions)
        ranks = [hashed(seed, user, item) for item in rows["item_id"]]
        strata = card.answers.strata(rows["target"].to_list(), places)
        if card.answers.exclusive:
            dealt = deal([first for first, *_ in strata], ranks, sizes, hashed(seed, user))
        else:
            dealt = deal_multi(strata, ranks, sizes)
        parts += [PARTS[part] for part in dealt]
    return parts, filled


def _ranked(frame: pl.DataFrame, seed: int, *first: str) -> pl.DataFrame:
    """Returns the rows user by user, ordered by these columns and then by hash."""
    ranks = [hashed(seed, user, item) for user, item in frame.select("user_id", "item_id").iter_rows()]
    return (
        frame.with_columns(pl.Series("rank", ranks, pl.UInt64)).sort("user_id", *first, "rank", "item_id").drop("rank")
    )
