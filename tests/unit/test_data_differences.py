"""How much a user differs from the others, against a plain loop over users and hand-computed values."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.answers import Kind
from peftu.cli.tables import stats_tables
from peftu.data import differences as module
from peftu.data.differences import BINS, differences, user_differences
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row


def plain(table: UserTable) -> list[dict[str, Any]]:
    """What every user's two differences are, one answer at a time."""
    labels, several = table.card.labels, table.card.kind == "multi"
    rows = [(user, item, set(given)) for user, item, given in table.frame.select("user_id", "item_id", "target").rows()]
    found = []
    for user in sorted({user for user, _, _ in rows}):
        wrong = compared = 0
        for _, item, own in (row for row in rows if row[0] == user):
            others = [given for who, what, given in rows if what == item and who != user]
            votes = {label: sum(label in given for given in others) for label in labels}
            if several:
                for label in labels:
                    if 2 * votes[label] != len(others):
                        compared += 1
                        wrong += (label in own) != (2 * votes[label] > len(others))
            else:
                commonest = [label for label in labels if votes[label] == max(votes.values())]
                if others and len(commonest) == 1:
                    compared += 1
                    wrong += own != set(commonest)
        mine = Counter(label for who, _, given in rows if who == user for label in given)
        rest = Counter(label for who, _, given in rows if who != user for label in given)
        shares = [{label: count[label] / max(1, sum(count.values())) for label in labels} for count in (mine, rest)]
        found.append(
            {
                "examples": sum(who == user for who, _, _ in rows),
                "compared": compared,
                "disagreement": wrong / compared if compared else None,
                "label_distance": sum(abs(shares[0][label] - shares[1][label]) for label in labels) / 2
                if rest
                else None,
            }
        )
    return found


@settings(deadline=None)
@given(
    kind=st.sampled_from(["single", "ordinal", "multi"]),
    users=st.integers(2, 6),
    share=st.sampled_from([1.0, 0.5, 0.2]),
    seed=st.integers(0, 50),
)
def test_every_user_equals_a_plain_loop(kind: Kind, users: int, share: float, seed: int) -> None:
    table = synthetic_table(users, 9, kind, share=share, seed=seed)
    got = user_differences(table)
    assert [one.pop("user") for one in got] == list(range(1, len(got) + 1))
    for one, expected in zip(got, plain(table), strict=True):
        assert one == {name: value if value is None else pytest.approx(value) for name, value in expected.items()}


def test_parts_of_a_table_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    table = synthetic_table(7, 20, "multi", share=0.6)
    whole = user_differences(table)
    monkeypatch.setattr(module, "CHUNK", 20)
    assert user_differences(table) == whole


def table_of(answers: dict[str, str]) -> UserTable:
    """Answers as 'yes'/'no' by the letters y and n, one an item; '-' where there is none."""
    card = synthetic_card().model_copy(update={"labels": ("yes", "no"), "words": ()})
    of = {"y": "yes", "n": "no"}
    return UserTable.build(
        card,
        [
            Row(user, f"i{number}", f"text {number}", (of[letter],))
            for user, letters in answers.items()
            for number, letter in enumerate(letters)
            if letter in of
        ],
    )


def test_by_hand() -> None:
    table = table_of({"a": "yyyy", "b": "nnny", "c": "nny-", "d": "--y-"})
    of = {one["user"]: one for one in user_differences(table)}
    # a: items 0 and 1 against n n, item 2 against n y y, item 3 against y
    assert (of[1]["compared"], of[1]["disagreement"]) == (4, 0.5)
    # b: items 0 and 1 tied, item 2 against y y y, item 3 against y
    assert (of[2]["compared"], of[2]["disagreement"]) == (2, 0.5)
    assert of[4] == {
        "user": 4,
        "examples": 1,
        "compared": 1,
        "disagreement": 0,
        "label_distance": pytest.approx(5 / 11),
    }


def test_who_has_nothing_to_be_compared_with() -> None:
    alone = table_of({"a": "yn--", "b": "--yn"})
    assert [one["disagreement"] for one in user_differences(alone)] == [None, None]
    assert differences(alone)["disagreement"]["users"] == 0
    assert differences(alone)["disagreement"]["mean"] is None
    only = table_of({"a": "yn"})
    assert user_differences(only)[0]["label_distance"] is None


def test_the_summary_is_that_of_the_users() -> None:
    table = synthetic_table(11, 30, share=0.7)
    found, users = differences(table), user_differences(table)
    for name in ("disagreement", "label_distance"):
        values = [one[name] for one in users]
        assert found[name]["users"] == 11
        assert found[name]["mean"] == pytest.approx(np.mean(values))
        assert found[name]["median"] == pytest.approx(np.median(values))
        assert found[name]["most"] == max(values)
        assert sum(found[name]["histogram"]) == 11
        assert len(found[name]["histogram"]) == BINS


def test_free_text_has_no_majority() -> None:
    table = synthetic_table(3, 4)
    text = UserTable(table.card.model_copy(update={"kind": "text", "labels": ()}), table.frame, table.hash)
    assert differences(text) == {}
    assert user_differences(text) == []


def test_tables_name_no_user_and_show_those_who_disagree_most() -> None:
    table = synthetic_table(30, 12)
    result = {"users": 30, **differences(table), "user_differences": user_differences(table)}
    facts, spread, users = stats_tables(result)
    assert (facts.row_count, spread.row_count, users.row_count) == (1, 8, 10)
    assert users.title == "users who disagree most (10 of 30)"
    numbers = [int(number) for number in users.columns[0].cells]
    shares = {one["user"]: one["disagreement"] for one in result["user_differences"]}
    assert shares[numbers[0]] == max(shares.values())
    assert min(shares[number] for number in numbers) >= max(s for u, s in shares.items() if u not in numbers)
