"""Agreement against the krippendorff package, hand-computed values and a plain loop over pairs."""

import itertools

import krippendorff
import numpy as np
import pytest

from peftu.answers import Kind
from peftu.data.agreement import alpha, masi_distance, statistics
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row


def loop_alpha(table: UserTable) -> float:
    """Krippendorff's alpha with the MASI distance, over all pairs of values."""
    units: dict[str, list[frozenset[str]]] = {}
    for item, labels in table.frame.select("item_id", "target").iter_rows():
        units.setdefault(item, []).append(frozenset(labels))
    pairable = [values for values in units.values() if len(values) > 1]
    everything = [value for values in pairable for value in values]
    observed = sum(
        masi_distance(one, other) / (len(values) - 1)
        for values in pairable
        for one, other in itertools.permutations(values, 2)
    ) / len(everything)
    expected = sum(masi_distance(one, other) for one, other in itertools.permutations(everything, 2))
    return 1 - observed / (expected / (len(everything) * (len(everything) - 1)))


def reliability(table: UserTable) -> np.ndarray:
    """The krippendorff package's other input: users by items, gaps as NaN."""
    users, items = (sorted(set(table.frame[name])) for name in ("user_id", "item_id"))
    data = np.full((len(users), len(items)), np.nan)
    for user, item, labels in table.frame.select("user_id", "item_id", "target").iter_rows():
        data[users.index(user), items.index(item)] = table.card.labels.index(labels[0])
    return data


@pytest.mark.parametrize(("kind", "level"), [("single", "nominal"), ("ordinal", "ordinal"), ("ordinal", "nominal")])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_one_label_equals_the_krippendorff_package(kind: Kind, level: str, share: float) -> None:
    table = synthetic_table(7, 25, kind, share=share)
    assert alpha(table, level) == pytest.approx(krippendorff.alpha(reliability(table), level_of_measurement=level))


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("kind", ["multi", "single"])
def test_label_sets_equal_a_plain_loop(kind: Kind, share: float) -> None:
    table = synthetic_table(6, 20, kind, share=share)
    assert alpha(table, "masi") == pytest.approx(loop_alpha(table))


def test_sets_of_one_label_are_nominal() -> None:
    table = synthetic_table(6, 30)
    assert alpha(table, "masi") == pytest.approx(alpha(table, "nominal"))


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("ab", "ab", 0), ("a", "b", 1), ("", "", 0), ("", "a", 1), ("a", "ab", 1 - 0.67 / 2), ("ab", "bc", 1 - 0.33 / 3)],
)
def test_masi_distances(one: str, other: str, distance: float) -> None:
    """Passonneau (2006), table of cases."""
    assert masi_distance(frozenset(one), frozenset(other)) == pytest.approx(distance)
    assert masi_distance(frozenset(other), frozenset(one)) == pytest.approx(distance)


def test_nothing_to_agree_on_has_no_alpha() -> None:
    alone = UserTable.build(synthetic_card(), [Row("a", "1", "x", ("likes",)), Row("b", "2", "y", ("dislikes",))])
    same = UserTable.build(synthetic_card(), [Row(user, "1", "x", ("likes",)) for user in "ab"])
    for table in (alone, same):
        assert [alpha(table, level) for level in ("nominal", "masi")] == [None, None]


def test_full_agreement_is_one() -> None:
    rows = [Row(user, item, item, (label,)) for user in "abc" for item, label in (("1", "likes"), ("2", "dislikes"))]
    table = UserTable.build(synthetic_card(), rows)
    assert alpha(table, "nominal") == alpha(table, "masi") == 1


def test_statistics_of_a_small_table() -> None:
    rows = [Row("a", "1", "x", ("likes",)), Row("a", "2", "x", ("likes",)), Row("b", "1", "x", ("dislikes",))]
    found = statistics(UserTable.build(synthetic_card(), rows))
    assert found["users"] == 2
    assert found["texts"] == 2
    assert found["distinct_texts"] == 1
    assert found["annotations"] == 3
    assert (found["examples_per_user"], found["users_per_text"]) == (1.5, 1.5)
    assert (found["fewest_examples"], found["median_examples"], found["most_examples"]) == (1, 1.5, 2)
    assert found["label_shares"] == pytest.approx({"likes": 2 / 3, "dislikes": 1 / 3})
    assert found["alpha_metric"] == "nominal"


def test_free_text_has_counts_but_no_alpha() -> None:
    found = statistics(synthetic_table(3, 5, "text"))
    assert (found["annotations"], found["alpha"], found["label_shares"]) == (15, None, {})
