"""Splits into train, validation and test rows: named regimes, the same on every machine, nothing dropped in silence."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from peftu.config import SplitSpec
from peftu.data.problem import PARTS, Problem, Text
from peftu.data.stratify import deal, deal_multi
from peftu.data.table import UserTable, content_hash
from peftu.data.task import TaskCard
from peftu.data.texts import distinct_texts, with_text_keys
from peftu.errors import PeftuError

Leakage = dict[str, float | int]


@dataclass(frozen=True, eq=False)
class Split:
    """Which part each row of a user table belongs to.

    Attributes:
        frame: user_id, item_id, part ('train', 'val', 'test'); sorted by the keys; rows of excluded users are absent.
        regime: 'within-user' or 'unseen-text'.
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

    def counts(self) -> dict[str, int]:
        """Returns the number of rows in each part."""
        return {part: self.frame.filter(pl.col("part") == part).height for part in PARTS}


def make_split(table: UserTable, spec: SplitSpec | None = None, seed: int = 0) -> Split:
    """Returns the split of a table.

    ``within-user`` divides each user's items, stratified by label; a user's rows depend on the seed and that user's
    own rows only. ``unseen-text`` divides the distinct texts of the whole table (spelling variants together), so
    no test text was trained on by anybody. ``spec.users`` draws from the users who can be split, in the order of a
    hash of their keys; it changes no row of theirs.

    Raises:
        PeftuError: the fractions or ``min_items`` make no split, or no user is left.
    """
    spec = spec or SplitSpec()
    fractions = _fractions(spec)
    frame, excluded = _eligible(table, spec)
    if spec.regime == "within-user":
        frame = _capped(_drawn(frame, spec.users, excluded), spec.max_items)
        parts, notes = _within_user(table.card, frame, fractions, seed)
        frame = frame.with_columns(pl.Series("part", parts, pl.String))
    else:
        frame = _capped(frame, spec.max_items)
        frame = frame.join(_text_parts(table, fractions, seed), on=["text", "context"], how="left", nulls_equal=True)
        frame = _drawn(_usable(frame, excluded), spec.users, excluded)
        notes = _without_validation(frame) if fractions[1] else {}
    if frame.is_empty():
        raise PeftuError(f"{table.card.name}: no user has training and test rows — use more items or 'within-user'")
    notes |= _cut(table, frame)
    frame = frame.sort("user_id", "item_id")
    rows = frame.select("user_id", "item_id", "part")
    digest = hashlib.sha256(f"{table.hash}\n{content_hash(rows)}".encode()).hexdigest()
    kept = {reason: number for reason, number in excluded.items() if number}
    return Split(rows, spec.regime, seed, spec.fractions, kept, notes, leakage_report(frame), f"sha256:{digest}")


def leakage_report(frame: pl.DataFrame) -> Leakage:
    """Returns what test rows share with training rows.

    Args:
        frame: user_id, item_id, text, context, part.

    Returns:
        ``test_rows``; ``text_seen_same_user`` and ``text_seen_other_users``: the share of test rows whose text (but
        for spelling) the same user or another one trained on; ``near_duplicates``: distinct test texts that differ
        from some training text in spelling only; ``item_overlap``: the share of test items that are training items;
        ``context_seen``: the share of test rows with a context that stands in training rows.
    """
    frame = with_text_keys(frame)
    train, test = _sides(frame, "train", "test")
    everyone = train.group_by("text_key").agg(pl.len().alias("everyone"))
    own = train.group_by("text_key", "user_id").agg(pl.len().alias("own"))
    seen = (
        test.select("text_key", "user_id")
        .join(everyone, on="text_key", how="left")
        .join(own, on=["text_key", "user_id"], how="left")
        .select(pl.col("everyone", "own").fill_null(0))
    )
    trained, tested = (distinct_texts(part) for part in (train, test))
    respelt = tested.join(trained, on=["text", "context"], how="anti", nulls_equal=True)
    items = test["item_id"].unique()
    contexts = train["context"].drop_nulls().unique().to_list()
    return {
        "test_rows": test.height,
        "text_seen_same_user": _share(seen["own"] > 0),
        "text_seen_other_users": _share(seen["everyone"] > seen["own"]),
        "near_duplicates": respelt.join(trained, on="text_key", how="semi").height,
        "item_overlap": _share(items.is_in(train["item_id"].unique().to_list())),
        "context_seen": _share(test["context"].is_in(contexts).fill_null(value=False)),
    }


def make_problem(table: UserTable, card: TaskCard, split: Split) -> Problem:
    """Returns the split rows as arrays, in the order of (user, item) keys; texts in order of first appearance."""
    frame = split.frame.join(table.frame, on=["user_id", "item_id"], how="left", maintain_order="left")
    users = split.users
    texts = frame.select("text", "context").unique(maintain_order=True).with_row_index("text_number")
    frame = frame.join(texts, on=["text", "context"], how="left", nulls_equal=True, maintain_order="left")
    target = np.zeros((frame.height, len(card.labels)), np.float32)
    if card.kind != "text":
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
    )


def part_sizes(number: int, fractions: Sequence[Fraction]) -> list[int]:
    """Returns how many of ``number`` things go to each part: largest remainders, the last part first on a tie.

    A part with a share gets at least one, taken from the largest, as long as there are enough.
    """
    sizes = _rounded(number, fractions)
    for part, fraction in enumerate(fractions):
        if fraction and not sizes[part] and max(sizes) > 1:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[part] = 1
    return sizes


def _rounded(number: int, fractions: Sequence[Fraction]) -> list[int]:
    exact = [number * fraction for fraction in fractions]
    sizes = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda part: (exact[part] - sizes[part], part), reverse=True)
    for part in order[: number - sum(sizes)]:
        sizes[part] += 1
    return sizes


def hashed(*parts: object) -> int:
    """Returns a number of 64 bits drawn from these values; the same on every machine and Python version."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


def _share(seen: pl.Series) -> float:
    return float(seen.to_numpy().mean()) if len(seen) else 0.0


def _numbers(column: pl.Series, names: Iterable[str]) -> Any:
    order = {name: number for number, name in enumerate(names)}
    return column.replace_strict(order, return_dtype=pl.Int64).to_numpy()


def _fractions(spec: SplitSpec) -> tuple[Fraction, ...]:
    shares = tuple(Fraction(str(share)) for share in spec.fractions)
    total = sum(shares, Fraction())
    if any(share < 0 for share in shares) or not shares[0] or not shares[2] or abs(total - 1) > Fraction(1, 10**6):
        listed = ", ".join(map(str, spec.fractions))
        raise PeftuError(
            f"split: fractions ({listed}) — give train, val and test shares that add up to 1; val may be 0"
        )
    if spec.min_items < 3:
        raise PeftuError(f"split: min_items is {spec.min_items} — train, val and test need 3 items at least")
    return tuple(share / total for share in shares)


def _eligible(table: UserTable, spec: SplitSpec) -> tuple[pl.DataFrame, dict[str, int]]:
    """Returns the rows of the users to be split, and how many users were left out for which reason."""
    items = table.frame.group_by("user_id").len()
    enough = items.filter(pl.col("len") >= spec.min_items)["user_id"].to_list()
    if not enough:
        most = max(items["len"].to_list())
        raise PeftuError(f"{table.card.name}: no user has {spec.min_items} items (most: {most}) — lower min_items")
    excluded = {f"fewer than {spec.min_items} items": items.height - len(enough)}
    return table.frame.filter(pl.col("user_id").is_in(enough)), excluded


def _drawn(frame: pl.DataFrame, number: int | None, excluded: dict[str, int]) -> pl.DataFrame:
    """Returns the rows of at most so many users; the others are counted in ``excluded``."""
    if number is None:
        return frame
    users = sorted(frame["user_id"].unique(), key=lambda user: (hashed("user", user), user))
    excluded[f"not among the {number} drawn"] = len(users[number:])
    return frame.filter(pl.col("user_id").is_in(users[:number]))


def _capped(frame: pl.DataFrame, most: int | None) -> pl.DataFrame:
    """Returns at most so many rows a user, drawn by hash."""
    if most is None:
        return frame
    ranks = [hashed("item", user, item) for user, item in frame.select("user_id", "item_id").iter_rows()]
    place = pl.col("rank").rank("ordinal").over("user_id")
    drawn = frame.with_columns(pl.Series("rank", ranks, pl.UInt64)).filter(place <= most)
    return drawn.drop("rank")


def _cut(table: UserTable, frame: pl.DataFrame) -> dict[str, int]:
    """Returns how many users of the split had more items in the table."""
    had, have = (rows.group_by("user_id").len() for rows in (table.frame, frame))
    cut = had.join(have, on="user_id").filter(pl.col("len") > pl.col("len_right"))
    return {f"cut to {cut['len_right'][0]} items": cut.height} if cut.height else {}


def _within_user(
    card: TaskCard, frame: pl.DataFrame, fractions: Sequence[Fraction], seed: int
) -> tuple[list[str], dict[str, int]]:
    """Returns the part of each row (sorted by user) and how often a part had to be filled up to one item."""
    parts: list[str] = []
    filled = 0
    places = {label: place for place, label in enumerate(card.labels)}
    for rows in frame.select("user_id", "item_id", "target").partition_by("user_id", maintain_order=True):
        user = rows["user_id"][0]
        sizes = part_sizes(rows.height, fractions)
        filled += sizes != _rounded(rows.height, fractions)
        ranks = [hashed(seed, user, item) for item in rows["item_id"]]
        if card.kind == "text":
            dealt = deal([0] * rows.height, ranks, sizes, hashed(seed, user))
        elif card.kind == "multi":
            dealt = deal_multi([[places[label] for label in labels] for labels in rows["target"]], ranks, sizes)
        else:
            strata = [places[labels[0]] for labels in rows["target"]]
            dealt = deal(strata, ranks, sizes, hashed(seed, user))
        parts += [PARTS[part] for part in dealt]
    rule = "a part that would be empty got one item, taken from the largest"
    return parts, {rule: filled} if filled else {}


def _text_parts(table: UserTable, fractions: Sequence[Fraction], seed: int) -> pl.DataFrame:
    """Returns text, context, part for every distinct text of the table."""
    texts = distinct_texts(table.frame)
    keys = sorted(texts["text_key"].unique(), key=lambda key: (hashed(seed, key), key))
    sizes = part_sizes(len(keys), fractions)
    parts = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    part_of = pl.DataFrame({"text_key": keys, "part": parts}, {"text_key": pl.String, "part": pl.String})
    return texts.join(part_of, on="text_key").drop("text_key")


def _usable(frame: pl.DataFrame, excluded: dict[str, int]) -> pl.DataFrame:
    """Returns the rows of users who have training and test rows; the others are counted in ``excluded``."""
    users, train, test = (set(rows["user_id"]) for rows in (frame, *_sides(frame, "train", "test")))
    excluded["no training rows"] = len(users - train)
    excluded["no test rows"] = len((users & train) - test)
    return frame.filter(pl.col("user_id").is_in(list(train & test)))


def _without_validation(frame: pl.DataFrame) -> dict[str, int]:
    """Returns how many users have no validation row."""
    (val,) = _sides(frame, "val")
    number = len(set(frame["user_id"]) - set(val["user_id"]))
    return {"kept without validation rows": number} if number else {}


def _sides(frame: pl.DataFrame, *parts: str) -> list[pl.DataFrame]:
    return [frame.filter(pl.col("part") == part) for part in parts]
