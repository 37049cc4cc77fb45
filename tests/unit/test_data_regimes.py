"""Unseen users, time and published splits: who is trained on, who is tested, and what is refused."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from peftu.config import RunSpec, SplitSpec, validated
from peftu.data.leakage import leakage_report
from peftu.data.splits import Split, make_problem, make_split
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row
from peftu.errors import PeftuError

GOLDEN = {
    "single unseen-user": "dd5028b9c749",
    "single temporal": "f36be83bfaae",
    "multi unseen-user": "318103e76d12",
    "multi temporal": "2f483f937099",
    "ordinal unseen-user": "bdb050a14959",
    "ordinal temporal": "5408627eb381",
    "text unseen-user": "3fe2257bbdb6",
    "text temporal": "6474cb7e201b",
    "published": "4c419ad13399",
}


def spec_of(regime: str, **values: object) -> SplitSpec:
    return SplitSpec.model_validate({"regime": regime, **values})


def parts_of(split: Split) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for user, part, number in split.frame.group_by("user_id", "part").len().sort("user_id", "part").iter_rows():
        counts.setdefault(user, {})[part] = number
    return counts


def published_table(parts: str, users: int = 3) -> UserTable:
    """Each user judges one item for each letter of ``parts``: t(rain), v(al), e (test)."""
    names = {"t": "train", "v": "val", "e": "test"}
    rows = [
        Row(f"u{user}", f"{user}-{n}", f"text {user} {n}", ("likes" if n % 2 else "dislikes",))
        for user in range(users)
        for n in range(len(parts))
    ]
    metas = [f'{{"split": "{names[part]}", "age": 3}}' for _ in range(users) for part in parts]
    return UserTable.build(synthetic_card(), [r._replace(meta=m) for r, m in zip(rows, metas, strict=True)])


class TestUnseenUser:
    @pytest.mark.parametrize("k", [0, 1, 2, 5, 10, 20])
    def test_k_items_train_and_the_rest_is_tested(self, k: int) -> None:
        split = make_split(synthetic_table(10, 30), spec_of("unseen-user", k=k))
        unseen = {user: own for user, own in parts_of(split).items() if "test" in own}
        assert list(unseen) == split.tested
        assert list(unseen.values()) == [({"test": 30 - k, "train": k} if k else {"test": 30})] * 2
        seen = [own for user, own in parts_of(split).items() if user not in unseen]
        assert seen == [{"train": 27, "val": 3}] * 8
        assert split.leakage["user_seen"] == (1 if k else 0)
        assert (split.excluded, split.notes) == ({}, {})

    def test_more_items_are_added_to_fewer(self) -> None:
        table = synthetic_table(10, 30)
        splits = [make_split(table, spec_of("unseen-user", k=k)) for k in (0, 1, 2, 5, 10)]
        for fewer, more in pairwise(splits):
            assert fewer.tested == more.tested
            less, larger = (
                set(s.frame.filter(part="train").select("user_id", "item_id").rows()) for s in (fewer, more)
            )
            assert less < larger

    def test_five_by_default_and_two_tenths_of_the_users(self) -> None:
        table = synthetic_table(30, 12)
        assert make_split(table, spec_of("unseen-user")).hash == make_split(table, spec_of("unseen-user", k=5)).hash
        assert len(make_split(table, spec_of("unseen-user")).tested) == 6
        assert len(make_split(table, spec_of("unseen-user", unseen=0.5)).tested) == 15
        assert len(make_split(table, spec_of("unseen-user", unseen=0.99)).tested) == 29
        assert len(make_split(table, spec_of("unseen-user", unseen=0.01)).tested) == 1

    def test_seeds_draw_other_users(self) -> None:
        table = synthetic_table(30, 12)
        assert (
            make_split(table, spec_of("unseen-user"), 1).tested != make_split(table, spec_of("unseen-user"), 2).tested
        )

    def test_users_with_k_items_are_trained_on_and_it_is_noted(self) -> None:
        rows = [
            Row(f"u{user}", f"{n}", f"text {n}", ("likes" if n % 3 else "dislikes",))
            for user in range(10)
            for n in range(30 if user < 2 else 20)
        ]
        split = make_split(UserTable.build(synthetic_card(), rows), spec_of("unseen-user", k=20, unseen=0.5))
        assert split.tested == ["u0", "u1"]
        assert split.notes == {"with 20 items or fewer, so never unseen": 8}

    def test_drawn_users_hold_the_unseen_ones(self) -> None:
        split = make_split(synthetic_table(12, 20), spec_of("unseen-user", users=5))
        assert (len(split.users), len(split.tested), split.excluded) == (5, 1, {"not among the 5 drawn": 7})

    def test_the_problem_has_no_validation_rows_of_unseen_users(self) -> None:
        table = synthetic_table(10, 30)
        split = make_split(table, spec_of("unseen-user", k=0))
        problem = make_problem(table, table.card, split)
        for user, key in enumerate(problem.users):
            train, val, test = (len(problem.rows(part, user)) for part in ("train", "val", "test"))
            assert (train, val, test) == ((0, 0, 30) if key in split.tested else (27, 3, 0))
        assert np.isin(problem.part, (0, 1, 2)).all()


class TestTemporal:
    def test_the_latest_are_tested(self) -> None:
        table = synthetic_table(5, 40)
        split = make_split(table, spec_of("temporal"))
        timed = split.frame.join(table.frame, on=["user_id", "item_id"])
        for rows in timed.partition_by("user_id"):
            assert rows.sort("time")["part"].to_list() == ["train"] * 32 + ["val"] * 4 + ["test"] * 4
        assert (split.leakage["later_same_user"], split.leakage["later_other_users"]) == (0, 0)
        assert make_split(table).leakage["later_same_user"] > 0.5

    def test_ties_are_drawn_and_depend_on_the_seed(self) -> None:
        rows = [Row("a", f"{n}", f"text {n}", ("likes" if n % 2 else "dislikes",), time=1.0) for n in range(40)]
        table = UserTable.build(synthetic_card(), rows)
        one, other = (make_split(table, spec_of("temporal"), seed) for seed in (0, 1))
        assert one.counts() == other.counts() == {"train": 32, "val": 4, "test": 4}
        assert one.hash != other.hash

    def test_other_users_later_rows_are_reported(self) -> None:
        rows = [
            Row(
                f"u{user}", f"{user}-{n}", f"text {user} {n}", ("likes" if n % 2 else "dislikes",), time=user * 99.0 + n
            )
            for user in range(4)
            for n in range(10)
        ]
        leakage = make_split(UserTable.build(synthetic_card(), rows), spec_of("temporal")).leakage
        assert (leakage["later_same_user"], leakage["later_other_users"]) == (0, 0.75)  # but for the last user

    @pytest.mark.parametrize(
        ("timed", "said"),
        [(0, "its rows have no time — choose another regime"), (4, "6 of its rows have no time — choose another")],
    )
    def test_no_time(self, timed: int, said: str) -> None:
        rows = [
            Row("a", f"{n}", f"text {n}", ("likes" if n % 2 else "dislikes",), time=1.0 if n < timed else None)
            for n in range(10)
        ]
        with pytest.raises(PeftuError, match=f"^synthetic-single: {said}"):
            make_split(UserTable.build(synthetic_card(), rows), spec_of("temporal"))


class TestPublished:
    def test_every_row_is_where_the_publisher_put_it(self) -> None:
        split = make_split(published_table("ttvee"), spec_of("published"))
        assert parts_of(split) == {f"u{n}": {"test": 2, "train": 2, "val": 1} for n in range(3)}
        assert split.excluded == {}  # five items are fewer than min_items, which does not apply
        assert split.hash == make_split(published_table("ttvee"), spec_of("published"), seed=5).hash

    def test_users_without_test_or_training_rows_are_kept_and_noted(self) -> None:
        one, two = published_table("tttvv", 1).frame, published_table("ttee", 2).frame.filter(user_id="u1")
        three = published_table("eee", 3).frame.filter(user_id="u2")
        table = UserTable.build(synthetic_card(), [Row(**row) for row in pl.concat([one, two, three]).to_dicts()])
        split = make_split(table, spec_of("published"))
        assert (split.users, split.tested) == (["u0", "u1", "u2"], ["u1", "u2"])
        assert split.notes == {"kept without test rows": 1, "kept without training rows": 1}
        drawn = make_split(table, spec_of("published", users=2))
        assert (drawn.users, drawn.excluded) == (["u1", "u2"], {"no test rows": 1})

    @pytest.mark.parametrize(
        ("metas", "said"),
        [
            ([None] * 4, "its publisher fixed no split — choose another regime"),
            (['{"split": "train"}', None, '{"split": "test"}', "{}"], "2 rows have no 'split' — choose another"),
            (['{"split": "train"}', '{"split": "dev"}'] * 2, "'split' is 'dev' in 2 rows — write train, val or test"),
            (['{"split": "train"}'] * 4, "the rows hold no 'test' part — get all of the publisher's files"),
            (['{"split": "test"}'] * 4, "the rows hold no 'train' part"),
        ],
    )
    def test_no_such_split(self, metas: list[str | None], said: str) -> None:
        rows = [Row("a", f"{n}", f"text {n}", ("likes",), meta=meta) for n, meta in enumerate(metas)]
        with pytest.raises(PeftuError, match=f"^synthetic-single: {said}"):
            make_split(UserTable.build(synthetic_card(), rows), spec_of("published"))


def test_the_splits_are_golden() -> None:
    """Must never change: runs name their split by it, on every machine and Python."""
    found = {
        f"{kind} {regime}": make_split(synthetic_table(6, 20, kind), spec_of(regime)).hash[7:19]
        for kind in ("single", "multi", "ordinal", "text")
        for regime in ("unseen-user", "temporal")
    }
    found["published"] = make_split(published_table("tttvee"), spec_of("published")).hash[7:19]
    assert found == GOLDEN


@pytest.mark.parametrize(
    ("spec", "table", "said"),
    [
        (
            spec_of("within-user", k=3),
            synthetic_table(),
            "split: k=3 — k is for regime unseen-user, and this is within",
        ),
        (spec_of("unseen-user", k=30), synthetic_table(), "synthetic-single: no user has more than k=30 items"),
        (spec_of("unseen-user"), synthetic_table(1, 20), "synthetic-single: unseen-user needs two users at least"),
    ],
)
def test_impossible_splits_are_one_line(spec: SplitSpec, table: UserTable, said: str) -> None:
    with pytest.raises(PeftuError) as caught:
        make_split(table, spec)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_an_unknown_regime_has_a_closest_name() -> None:
    values = {"task": "epic", "methods": [{"name": "lora"}], "split": {"regime": "unseen_user"}}
    with pytest.raises(PeftuError) as caught:
        validated(RunSpec, values, "run")
    assert str(caught.value) == "run: split.regime: unknown value 'unseen_user' — did you mean 'unseen-user'?"


def test_times_of_nobody_else() -> None:
    rows = [
        ("a", "1", "x", None, "train", 5.0),
        ("a", "2", "y", None, "test", 3.0),
        ("a", "3", "z", None, "test", None),
    ]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "text", "context", "part", "time"], orient="row")
    leakage = leakage_report(frame.with_columns(pl.col("context").cast(pl.String)))
    assert (leakage["later_same_user"], leakage["later_other_users"]) == (0.5, 0)
