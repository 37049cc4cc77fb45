import numpy as np
import pytest

from peftu.data.problem import PARTS, Problem, Text
from peftu.data.synthetic import LABELS, synthetic_card
from peftu.errors import PeftuError
from peftu.methods.method import methods
from peftu.methods.reference import GlobalMajority, UserMajority

USERS = ("ann", "bob", "cem", "eve")


def problem(rows: list[tuple[str, str, str]], kind: str = "single") -> Problem:
    """Rows of (user, part, labels joined by +), each on a text of its own."""
    labels = LABELS[kind]
    target = np.array([[label in given.split("+") for label in labels] for _, _, given in rows], np.float32)
    return Problem(
        card=synthetic_card(kind),
        users=USERS,
        texts=tuple(Text(str(number)) for number in range(len(rows))),
        item_ids=tuple(str(number) for number in range(len(rows))),
        user=np.array([USERS.index(user) for user, _, _ in rows], np.int32),
        text=np.arange(len(rows), dtype=np.int32),
        part=np.array([PARTS.index(part) for _, part, _ in rows], np.int8),
        target=target.reshape(len(rows), len(labels)),
        split_hash="sha256:none",
    )


def commonest(fitted, labels) -> list[str]:
    users = np.arange(len(USERS))
    return [labels[place] for place in fitted.scores(users, [Text("a")] * len(users)).argmax(1)]


ORDINAL = [
    *[("ann", "train", label) for label in ("often", "often", "never")],
    *[("bob", "train", label) for label in ("seldom", "always")],  # a tie; 'always' is commoner overall
    *[("cem", "train", label) for label in ("always", "always", "always")],
    *[("ann", "val", "never")] * 9,
    *[("eve", "test", "seldom")] * 9,
]


def test_commonest_label_with_ties_and_empty_users_by_everyone() -> None:
    fitted = UserMajority().fit(problem(ORDINAL, "ordinal"), None, 0)
    assert commonest(fitted, LABELS["ordinal"]) == ["often", "always", "always", "always"]
    assert fitted.notes == {"users_without_train_rows": 1}
    assert fitted.parameters_per_user == 3


def test_everyone_gets_the_commonest_label_of_all() -> None:
    fitted = GlobalMajority().fit(problem(ORDINAL, "ordinal"), None, 0)
    assert commonest(fitted, LABELS["ordinal"]) == ["always"] * 4
    assert fitted.parameters_per_user == 0


@pytest.mark.parametrize("method", [GlobalMajority, UserMajority])
def test_scores_are_log_probabilities(method) -> None:
    scores = method().fit(problem(ORDINAL, "ordinal"), None, 0).scores(np.arange(4), [Text("a")] * 4)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-6)
    assert np.isfinite(scores).all()


def test_one_more_row_never_outvotes_a_lead_of_one() -> None:
    rows = [("ann", "train", "likes"), *[("bob", "train", "dislikes")] * 500]
    assert commonest(UserMajority().fit(problem(rows), None, 0), LABELS["single"])[0] == "likes"


def test_scores_are_smoothed_frequencies() -> None:
    rows = [("ann", "train", "likes"), ("ann", "train", "likes"), ("bob", "train", "dislikes")]
    scores = UserMajority().fit(problem(rows), None, 0).scores(np.array([0]), [Text("a")])
    likes = (2 + 0.5) / 4
    np.testing.assert_allclose(np.exp(scores[0]), [(1 - likes) / 3, (2 + likes) / 3], rtol=1e-6)


def test_multi_predicts_the_commonest_set() -> None:
    """Each of ann's labels is rare, but no set is commoner than glad alone; bob always says two."""
    rows = [
        *[("ann", "train", given) for given in ("glad", "glad", "calm", "sad", "upset", "")],
        *[("bob", "train", given) for given in ("sad+upset", "sad+upset", "glad")],
    ]
    fitted = UserMajority().fit(problem(rows, "multi"), None, 0)
    scores = fitted.scores(np.arange(4), [Text("a")] * 4)
    said = [{LABELS["multi"][place] for place in np.flatnonzero(row > np.log(0.5))} for row in scores]
    assert said == [{"glad"}, {"sad", "upset"}, {"glad"}, {"glad"}]
    assert fitted.parameters_per_user == 4
    assert (scores < 0).all()


def test_multi_keeps_the_frequencies_where_they_agree_with_the_set() -> None:
    rows = [*[("ann", "train", "glad")] * 3, ("ann", "train", "glad+sad")]
    scores = GlobalMajority().fit(problem(rows, "multi"), None, 0).scores(np.array([1]), [Text("a")])
    overall = (np.array([0, 4, 1, 0]) + 0.25) / 5
    np.testing.assert_allclose(np.exp(scores[0]), (np.array([0, 4, 1, 0]) + overall) / 5, rtol=1e-6)


@pytest.mark.parametrize("method", [GlobalMajority, UserMajority])
def test_val_and_test_rows_stay_unread(method) -> None:
    trained = [row for row in ORDINAL if row[1] == "train"]
    users, texts = np.arange(4), [Text("a")] * 4
    one, other = (method().fit(problem(rows, "ordinal"), None, 0) for rows in (ORDINAL, trained))
    np.testing.assert_array_equal(one.scores(users, texts), other.scores(users, texts))


def test_no_rows_or_no_labels_is_said() -> None:
    with pytest.raises(PeftuError, match="no training rows"):
        UserMajority().fit(problem([("ann", "val", "likes")]), None, 0)
    with pytest.raises(PeftuError, match="no label set"):
        GlobalMajority().fit(problem([("ann", "train", "")], "text"), None, 0)


@pytest.mark.parametrize("name", ["global-majority", "user-majority", "mixed-head"])
def test_registered_under_the_name_on_its_card(name) -> None:
    assert methods.get(name).card.name == name
