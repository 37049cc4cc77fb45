"""What each regime promises, for any table: a partition, no leakage that it rules out, nothing but hashed draws."""

from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.config import SplitSpec
from peftu.data.leakage import leakage_report
from peftu.data.problem import PARTS
from peftu.data.splits import Split, make_problem, make_split
from peftu.data.synthetic import LABELS, synthetic_card
from peftu.data.table import UserTable
from peftu.data.task import Row

KINDS = st.sampled_from(["single", "multi", "ordinal", "text"])
REGIMES = st.sampled_from(["within-user", "unseen-user", "temporal", "published"])  # unseen-text: data_properties
KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=4)
few = settings(max_examples=25, deadline=None)


@st.composite
def rows_of(draw: st.DrawFn, kind: str) -> list[Row]:
    """Two users or more, at least four items each, with times that often tie and a published split."""
    names = draw(st.lists(KEYS, min_size=2, max_size=6, unique=True))
    items = draw(st.lists(KEYS, min_size=5, max_size=14, unique=True))
    if kind == "text":
        target = st.tuples(st.sampled_from(["short", "a longer answer"]))
    else:
        labels = st.sampled_from(LABELS[kind])
        target = st.sets(labels, min_size=1, max_size=3 if kind == "multi" else 1).map(tuple)
    parts = {item: draw(st.sampled_from(PARTS)) for item in items} | {items[0]: "train", items[1]: "test"}
    return [
        Row(name, item, f"on {item}", draw(target), None, draw(st.integers(0, 4)), f'{{"split": "{parts[item]}"}}')
        for place, name in enumerate(names)
        for item in items[: draw(st.integers(4, len(items))) if place else len(items)]
    ]


def split_of(rows: list[Row], kind: str, regime: str, seed: int = 0, k: int | None = None) -> tuple[UserTable, Split]:
    table = UserTable.build(synthetic_card(kind), rows)
    k = k if regime == "unseen-user" else None
    return table, make_split(table, SplitSpec.model_validate({"regime": regime, "min_items": 4, "k": k}), seed)


@few
@given(st.data(), KINDS, REGIMES, st.integers(0, 5), st.integers(0, 4))
def test_a_partition_of_the_rows_of_its_users(data: st.DataObject, kind: str, regime: str, seed: int, k: int) -> None:
    table, split = split_of(data.draw(rows_of(kind)), kind, regime, seed, k)
    own = table.frame.filter(pl.col("user_id").is_in(split.users)).select("user_id", "item_id")
    assert split.frame.select("user_id", "item_id").equals(own)
    assert set(split.frame["part"]) <= set(PARTS)
    assert table.frame["user_id"].n_unique() - len(split.users) == sum(split.excluded.values())
    assert split.tested
    problem = make_problem(table, table.card, split)
    assert len(problem.part) == split.frame.height
    assert all(len(problem.rows(part)) == number for part, number in split.counts().items())


@few
@given(st.data(), KINDS, REGIMES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    data: st.DataObject, kind: str, regime: str, seed: int, random: object
) -> None:
    rows = data.draw(rows_of(kind))
    _, split = split_of(rows, kind, regime, seed, 2)
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert split_of(rows, kind, regime, seed, 2)[1].hash == split.hash


@few
@given(st.data(), KINDS, st.integers(0, 5), st.integers(0, 3))
def test_unseen_users_are_trained_on_by_k_items(data: st.DataObject, kind: str, seed: int, k: int) -> None:
    rows = data.draw(rows_of(kind))
    _, split = split_of(rows, kind, "unseen-user", seed, k)
    seen = split.frame.filter(~pl.col("user_id").is_in(split.tested))
    assert set(seen["part"]) <= {"train", "val"}
    assert seen.height > 0
    for user in split.frame.filter(pl.col("user_id").is_in(split.tested)).partition_by("user_id"):
        assert {part: (user["part"] == part).sum() for part in PARTS} == {"train": k, "val": 0, "test": user.height - k}
    assert (split.leakage["user_seen"] == 0) == (k == 0)
    _, more = split_of(rows, kind, "unseen-user", seed, k + 1)
    if set(more.tested) == set(split.tested):
        train = [one.frame.filter(part="train").select("user_id", "item_id").rows() for one in (split, more)]
        assert set(train[0]) < set(train[1])
        assert len(train[1]) == len(train[0]) + len(split.tested)


@few
@given(st.data(), KINDS, st.integers(0, 5))
def test_nothing_is_learnt_from_a_user_s_future(data: st.DataObject, kind: str, seed: int) -> None:
    table, split = split_of(data.draw(rows_of(kind)), kind, "temporal", seed)
    assert split.leakage["later_same_user"] == 0
    timed = split.frame.join(table.frame, on=["user_id", "item_id"])
    for user in timed.partition_by("user_id"):
        latest = [user.filter(part=part)["time"] for part in PARTS]
        assert all(not len(late) or early.max() <= late.min() for early, late in pairwise(latest))


@few
@given(st.data(), KINDS)
def test_the_report_finds_later_rows_as_a_loop_does(data: st.DataObject, kind: str) -> None:
    table, split = split_of(data.draw(rows_of(kind)), kind, "within-user")
    frame = split.frame.join(table.frame, on=["user_id", "item_id"], maintain_order="left")
    train, test = (frame.filter(part=part).select("user_id", "time").rows() for part in ("train", "test"))
    own = [any(u == user and t > time for u, t in train) for user, time in test]
    others = [any(u != user and t > time for u, t in train) for user, time in test]
    report = leakage_report(frame)
    assert abs(report["later_same_user"] - sum(own) / len(own)) < 1e-12
    assert abs(report["later_other_users"] - sum(others) / len(others)) < 1e-12


@few
@given(st.data(), KINDS)
def test_published_parts_are_the_publisher_s_for_any_seed(data: st.DataObject, kind: str) -> None:
    rows = data.draw(rows_of(kind))
    table, split = split_of(rows, kind, "published")
    joined = split.frame.join(table.frame, on=["user_id", "item_id"])
    assert joined["part"].equals(joined["meta"].str.json_path_match("$.split").alias("part"))
    assert split_of(rows, kind, "published", 7)[1].hash == split.hash
    assert split.users == sorted({row.user_id for row in rows})
