"""Splits: exact sizes, rules for small users, leakage reports, problems."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from peftu.config import SplitSpec
from peftu.data.problem import PARTS
from peftu.data.splits import Split, hashed, leakage_report, make_problem, make_split, part_sizes
from peftu.data.stratify import deal, deal_multi
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row
from peftu.data.texts import normalise
from peftu.errors import PeftuError

TENTHS = (Fraction(8, 10), Fraction(1, 10), Fraction(1, 10))
UNSEEN = SplitSpec(regime="unseen-text")
GOLDEN = {
    "single within-user": "a8dfa8fe5cb1",
    "single unseen-text": "881d61285785",
    "multi within-user": "158fa49a4ba2",
    "multi unseen-text": "779f8744701f",
    "ordinal within-user": "e4853485800e",
    "ordinal unseen-text": "fabaef666912",
    "text within-user": "f84f3265424e",
    "text unseen-text": "4e3030207199",
}


def per_user(split: Split) -> set[tuple[int, ...]]:
    counts = split.frame.group_by("user_id").agg([(pl.col("part") == part).sum().alias(part) for part in PARTS])
    return {tuple(row) for row in counts.drop("user_id").rows()}


def table_of(sizes: dict[str, int], kind: str = "single") -> UserTable:
    rows = [
        Row(user, f"{user}-{number}", f"text {number} of {user}", ("likes" if number % 3 else "dislikes",))
        for user, size in sizes.items()
        for number in range(size)
    ]
    return UserTable.build(synthetic_card(kind), rows)


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (200, [160, 20, 20]),
        (10, [8, 1, 1]),
        (15, [12, 1, 2]),
        (25, [20, 2, 3]),
        (14, [11, 1, 2]),
        (3, [1, 1, 1]),
        (4, [2, 1, 1]),
    ],
)
def test_part_sizes(number: int, sizes: list[int]) -> None:
    assert part_sizes(number, TENTHS) == sizes


def test_part_sizes_take_from_the_largest() -> None:
    assert part_sizes(3, (Fraction(1, 10), Fraction(1, 10), Fraction(8, 10))) == [1, 1, 1]
    assert part_sizes(10, (Fraction(9, 10), Fraction(0), Fraction(1, 10))) == [9, 0, 1]


@pytest.mark.parametrize("regime", ["within-user", "unseen-text"])
def test_two_hundred_items_become_160_20_20(regime: str) -> None:
    split = make_split(synthetic_table(4, 200), SplitSpec(regime=regime))
    assert per_user(split) == {(160, 20, 20)}
    assert split.counts() == {"train": 640, "val": 80, "test": 80}
    assert (split.excluded, split.notes, split.users) == ({}, {}, [f"user-{number}" for number in range(4)])


def test_labels_are_spread_over_the_parts() -> None:
    table = synthetic_table(10, 100)
    split = make_split(table)
    joined = split.frame.join(table.frame, on=["user_id", "item_id"])
    for rows in joined.partition_by("user_id"):
        share = (rows["target"].list.first() == "likes").mean()
        for part, size in zip(PARTS, (80, 10, 10), strict=True):
            likes = rows.filter(pl.col("part") == part)["target"].list.first().eq("likes").sum()
            assert abs(likes - share * size) <= 1.5


def test_every_stratum_gets_its_share_of_every_part() -> None:
    strata = [0] * 50 + [1] * 30 + [2] * 20
    parts = np.array(deal(strata, [hashed(number) for number in range(100)], (80, 10, 10), turn=7))
    assert np.bincount(parts).tolist() == [80, 10, 10]
    for stratum, size in ((0, 50), (1, 30), (2, 20)):
        got = np.bincount(parts[np.array(strata) == stratum], minlength=3)
        assert np.abs(got - np.array([0.8, 0.1, 0.1]) * size).max() <= 1


def test_iterative_stratification_spreads_rare_labels() -> None:
    labels = [[0, 1] if number % 20 == 0 else [0, 2] if number % 2 else [2] for number in range(200)]
    parts = np.array(deal_multi(labels, [hashed(number) for number in range(200)], (160, 20, 20)))
    assert np.bincount(parts).tolist() == [160, 20, 20]
    for label in range(3):
        has = np.array([label in own for own in labels])
        assert np.abs(np.bincount(parts[has], minlength=3) - np.array([0.8, 0.1, 0.1]) * has.sum()).max() <= 1


def test_small_users_are_left_out_and_counted() -> None:
    split = make_split(table_of({"a": 30, "b": 9, "c": 10, "d": 3}))
    assert split.users == ["a", "c"]
    assert split.excluded == {"fewer than 10 items": 2}


def test_parts_that_would_be_empty_get_one_item_and_it_is_noted() -> None:
    split = make_split(table_of({"a": 30, "b": 4, "c": 3, "d": 9}), SplitSpec(min_items=3))
    assert per_user(split) == {(24, 3, 3), (2, 1, 1), (1, 1, 1), (7, 1, 1)}
    assert split.notes == {"a part that would be empty got one item, taken from the largest": 2}


def test_users_without_test_texts_are_left_out_and_counted() -> None:
    table = table_of({f"u{number}": 10 for number in range(40)})  # nobody shares a text with anybody
    split = make_split(table, UNSEEN)
    parts = {user: set(rows["part"]) for (user,), rows in split.frame.group_by("user_id")}
    assert all({"train", "test"} <= own for own in parts.values())
    assert split.excluded == {"no test rows": 40 - len(parts)}
    without = sum("val" not in own for own in parts.values())
    assert split.notes == {"kept without validation rows": without}
    assert without > 0


def test_no_validation_part_when_none_is_asked_for() -> None:
    for regime in ("within-user", "unseen-text"):
        split = make_split(synthetic_table(4, 40), SplitSpec(regime=regime, fractions=(0.8, 0.0, 0.2)))
        assert split.counts() == {"train": 128, "val": 0, "test": 32}
        assert split.notes == {}


def test_drawn_users_are_the_same_for_all_seeds_and_grow() -> None:
    table = synthetic_table(12, 20)
    four = make_split(table, SplitSpec(users=4))
    assert four.excluded == {"not among the 4 drawn": 8}
    assert make_split(table, SplitSpec(users=4), seed=9).users == four.users
    assert set(four.users) < set(make_split(table, SplitSpec(users=6)).users)
    assert make_split(table, SplitSpec(users=99)).users == make_split(table).users
    whole = make_split(table).frame.filter(pl.col("user_id").is_in(four.users))
    assert whole.equals(four.frame)


def test_users_are_drawn_among_those_who_can_be_split() -> None:
    table = table_of({f"u{number}": 10 for number in range(40)})
    whole, five = make_split(table, UNSEEN), make_split(table, UNSEEN.model_copy(update={"users": 5}))
    assert len(five.users) == 5
    assert sum(five.excluded.values()) == 35
    assert five.excluded["no test rows"] == whole.excluded["no test rows"]
    assert five.notes.get("kept without validation rows", 0) <= 5


@pytest.mark.parametrize("regime", ["within-user", "unseen-text"])
def test_rich_users_are_cut_the_same_for_every_seed_and_it_is_noted(regime: str) -> None:
    table = table_of({"a": 100, "b": 40, "c": 39})
    found = [make_split(table, SplitSpec(regime=regime, max_items=40), seed) for seed in (0, 1)]
    assert found[0].notes["cut to 40 items"] == 1
    assert sum(found[0].counts().values()) == 119
    assert found[0].frame.select("user_id", "item_id").equals(found[1].frame.select("user_id", "item_id"))


@pytest.mark.parametrize("regime", ["within-user", "unseen-text"])
def test_seeds_differ_and_repeat(regime: str) -> None:
    table, spec = synthetic_table(), SplitSpec(regime=regime)
    assert make_split(table, spec, 1).hash == make_split(table, spec, 1).hash != make_split(table, spec, 2).hash


def test_the_split_is_golden() -> None:
    """Must never change: runs name their split by it, on every machine and Python."""
    found = {
        f"{kind} {regime}": make_split(synthetic_table(3, 20, kind), SplitSpec(regime=regime)).hash[7:19]
        for kind in ("single", "multi", "ordinal", "text")
        for regime in ("within-user", "unseen-text")
    }
    assert found == GOLDEN
    assert hashed(0, "user", "item") == 7677908302027659761


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SplitSpec(min_items=31), "synthetic-single: no user has 31 items (most: 30) — lower min_items"),
        (SplitSpec(fractions=(0.8, 0.1, 0.2)), "split: fractions (0.8, 0.1, 0.2) — give train, val and test shares"),
        (SplitSpec(fractions=(1.2, -0.3, 0.1)), "split: fractions (1.2, -0.3, 0.1)"),
        (SplitSpec(fractions=(0.9, 0.1, 0.0)), "split: fractions (0.9, 0.1, 0.0)"),
        (
            SplitSpec.model_construct(**{**SplitSpec().model_dump(), "min_items": 2}),
            "split: min_items is 2 — train, val",
        ),
    ],
)
def test_impossible_splits_are_one_line(spec: SplitSpec, said: str) -> None:
    with pytest.raises(PeftuError) as caught:
        make_split(synthetic_table(), spec)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_nobody_left_over_unseen_texts() -> None:
    rows = [Row("a", str(number), "same" + "!" * number, ("likes",)) for number in range(3)]
    with pytest.raises(PeftuError, match="no user has training and test rows"):
        make_split(UserTable.build(synthetic_card(), rows), SplitSpec(regime="unseen-text", min_items=3))


class TestLeakage:
    def report(self, *rows: tuple[str, str, str, str]) -> dict[str, float | int]:
        frame = pl.DataFrame(
            [(*row, None) for row in rows], ["user_id", "item_id", "text", "part", "context"], orient="row"
        )
        return leakage_report(frame.with_columns(pl.col("context").cast(pl.String)))

    def test_by_the_same_user_and_by_others(self) -> None:
        report = self.report(
            ("a", "1", "Hello there", "train"),
            ("a", "2", "hello,  THERE!", "test"),
            ("b", "1", "Hello there", "test"),
            ("b", "3", "all new", "test"),
            ("b", "4", "all", "train"),
        )
        assert report["test_rows"] == 3
        assert report["text_seen_same_user"] == pytest.approx(1 / 3)
        assert report["text_seen_other_users"] == pytest.approx(1 / 3)
        assert report["near_duplicates"] == 1
        assert report["item_overlap"] == pytest.approx(1 / 3)

    def test_context(self) -> None:
        rows = [("a", "1", "x", "train", "post"), ("a", "2", "y", "test", "post"), ("a", "3", "z", "test", None)]
        frame = pl.DataFrame(rows, ["user_id", "item_id", "text", "part", "context"], orient="row")
        assert leakage_report(frame)["context_seen"] == 0.5

    def test_spelling_variants_stay_together_over_unseen_texts(self) -> None:
        rows = [Row("a", f"{n}-{v}", f"Text {n}{'!' * v}", ("likes",)) for n in range(30) for v in range(3)]
        split = make_split(UserTable.build(synthetic_card(), rows), UNSEEN)
        assert split.leakage["near_duplicates"] == split.leakage["text_seen_same_user"] == 0
        assert make_split(UserTable.build(synthetic_card(), rows)).leakage["near_duplicates"] > 0


@pytest.mark.parametrize(
    ("text", "plain"), [("  A  b.c!", "a bc"), ("?!", "?!"), ("É à", "É à"), ("a\n\tb", "a b"), ("don't", "dont")]
)
def test_normalised_texts(text: str, plain: str) -> None:
    assert normalise(text) == plain


class TestProblem:
    def test_rows_are_the_split_in_order(self) -> None:
        table = synthetic_table(5, 20, "multi", share=0.8)
        split = make_split(table)
        problem = make_problem(table, table.card, split)
        frame = split.frame.join(table.frame, on=["user_id", "item_id"], how="left", maintain_order="left")
        assert problem.users == tuple(sorted(problem.users))
        assert [problem.users[number] for number in problem.user] == frame["user_id"].to_list()
        assert list(problem.item_ids) == frame["item_id"].to_list()
        assert [problem.texts[number].text for number in problem.text] == frame["text"].to_list()
        assert [PARTS[number] for number in problem.part] == frame["part"].to_list()
        named = [
            [label for label, given in zip(table.card.labels, row, strict=True) if given] for row in problem.target
        ]
        assert named == frame["target"].to_list()
        assert len(set(problem.texts)) == len(problem.texts)
        assert problem.split_hash == split.hash
        assert [array.dtype.name for array in (problem.user, problem.text, problem.part, problem.target)] == [
            "int32",
            "int32",
            "int8",
            "float32",
        ]

    def test_one_text_under_two_contexts_is_two_texts(self) -> None:
        rows = [Row("a", f"{n}", "ok", ("likes",), context=f"post {n % 5}") for n in range(10)]
        table = UserTable.build(synthetic_card(), rows)
        problem = make_problem(table, table.card, make_split(table))
        assert sorted(text.context or "" for text in problem.texts) == [f"post {n}" for n in range(5)]

    def test_free_text_has_no_labels(self) -> None:
        table = synthetic_table(3, 12, "text")
        assert make_problem(table, table.card, make_split(table)).target.shape == (36, 0)
