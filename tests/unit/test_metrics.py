"""Scores per user against scikit-learn, user by user."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, mean_absolute_error
from sklearn.preprocessing import MultiLabelBinarizer

from peftu.answers import Kind
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.metrics import PREDICTIONS, Metric, metrics, user_scores

LABELS = ("calm", "cross", "glad")


def card(kind: Kind = "single", labels: tuple[str, ...] = LABELS) -> TaskCard:
    return TaskCard(
        name="made-up", version="1", title="Made up", description="d", user="a person", kind=kind,
        labels=labels, instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none",
        homepage="none", files=(),
    )  # fmt: skip


def predictions(
    gold: list[list[str]], said: list[list[str] | None], users: list[str] | None = None, **columns: object
) -> pl.DataFrame:
    rows = {
        "method": "m", "base": None, "seed": 0, "part": "test", "target": gold, "predicted": said,
        "user_id": users or ["u"] * len(gold), "item_id": [str(i) for i in range(len(gold))],
        "scores": [[0.0] * len(LABELS)] * len(gold),
    } | columns  # fmt: skip
    whole = {name: value if isinstance(value, list) else [value] * len(gold) for name, value in rows.items()}
    return pl.DataFrame(whole, schema={name: PREDICTIONS[name] for name in whole}).select(*PREDICTIONS)


def random_predictions(kind: Kind, users: int = 25, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, users)
    keys = [f"u{user:02d}" for user in np.repeat(np.arange(users), sizes)]

    def draw() -> list[list[str]]:
        if kind == "multi":
            return [[label for label in LABELS if rng.random() < 0.4] for _ in keys]
        return [[LABELS[rng.integers(3)]] for _ in keys]

    return predictions(draw(), draw(), keys)


@pytest.mark.parametrize("kind", ["single", "ordinal"])
def test_equals_scikit_learn_for_one_label_a_row(kind: Kind) -> None:
    frame = random_predictions(kind)
    scores = user_scores(frame, card(kind))
    assert scores["user_id"].is_sorted()
    for row in scores.iter_rows(named=True):
        own = frame.filter(pl.col("user_id") == row["user_id"])
        gold, said = own["target"].list.first(), own["predicted"].list.first()
        assert row["n_test"] == row["n_scored"] == len(own)
        assert row["accuracy"] == pytest.approx(accuracy_score(gold, said))
        assert row["macro_f1"] == pytest.approx(f1_score(gold, said, average="macro", zero_division=0))
        if kind == "ordinal":
            steps = [[LABELS.index(label) for label in side] for side in (gold, said)]
            assert row["mae"] == pytest.approx(mean_absolute_error(*steps))


def test_equals_scikit_learn_for_label_sets() -> None:
    frame = random_predictions("multi")
    binarizer = MultiLabelBinarizer(classes=LABELS).fit([])
    for row in user_scores(frame, card("multi")).iter_rows(named=True):
        own = frame.filter(pl.col("user_id") == row["user_id"])
        gold, said = (binarizer.transform(own[side].to_list()) for side in ("target", "predicted"))
        occurring = np.flatnonzero((gold + said).any(0))
        assert row["accuracy"] == row["exact_match"] == pytest.approx(accuracy_score(gold, said))
        assert row["jaccard"] == pytest.approx(jaccard_score(gold, said, average="samples", zero_division=1))
        pairs = list(zip(own["target"].to_list(), own["predicted"].to_list(), strict=True))
        hits = [bool({*right} & {*named}) or not (right or named) for right, named in pairs]
        assert row["any_match"] == pytest.approx(np.mean(hits))
        if len(occurring) == 0:
            assert row["macro_f1"] == row["micro_f1"] == 1
            continue
        assert row["micro_f1"] == pytest.approx(f1_score(gold, said, average="micro", zero_division=0))
        macro = f1_score(gold, said, average="macro", labels=occurring, zero_division=0)
        assert row["macro_f1"] == pytest.approx(macro)


def test_naming_every_label_is_not_a_hit() -> None:
    scores = user_scores(predictions([["calm"], ["glad"]], [list(LABELS), list(LABELS)]), card("multi"))
    assert scores["accuracy"].to_list() == [0]
    assert scores["jaccard"].to_list() == [pytest.approx(1 / 3)]
    assert scores["any_match"].to_list() == [1]  # as PEFT-U counts


def test_agreeing_on_no_label_is_agreement() -> None:
    row = user_scores(predictions([[]], [[]]), card("multi")).row(0, named=True)
    assert [row[name] for name in ("accuracy", "jaccard", "macro_f1", "micro_f1")] == [1, 1, 1, 1]


def test_rows_without_a_score_are_counted_and_stay_out() -> None:
    none, nan, good = None, [float("nan"), 0.0, 0.0], [0.0, -1.0, float("-inf")]
    frame = predictions(
        [["calm"]] * 4, [["calm"], ["cross"], None, None], ["a", "a", "a", "b"], scores=[good, nan, none, none]
    )
    scored, never = user_scores(frame, card()).iter_rows(named=True)
    assert (scored["n_test"], scored["n_scored"], scored["accuracy"], scored["macro_f1"]) == (3, 1, 1.0, 1.0)
    assert (never["n_test"], never["n_scored"], never["accuracy"], never["macro_f1"]) == (1, 0, None, None)


def test_only_test_rows_count_and_methods_keep_their_order() -> None:
    gold, said = [["calm"]] * 4, [["calm"], ["cross"], ["glad"], ["calm"]]
    frame = predictions(
        gold, said, part=["test", "val", "val", "test"], method=["z", "z", "a", "a"], base=[None, None, "b", "b"],
        item_id=["0", "1", "1", "0"],
    )  # fmt: skip
    scores = user_scores(frame, card())
    assert scores.select("method", "base", "n_test", "accuracy").rows() == [("z", None, 1, 1.0), ("a", "b", 1, 1.0)]


def test_a_label_does_not_repeat_its_base() -> None:
    method, base = ["lora@b", "lora@b", "lora", "x@c"], ["b", None, "c", "b"]
    scores = user_scores(predictions([["calm"]] * 4, [["calm"]] * 4, method=method, base=base, item_id="0"), card())
    assert scores.select("method", "base").rows() == [("lora", "b"), ("lora@b", None), ("lora", "c"), ("x@c", "b")]


def test_training_rows_can_be_joined() -> None:
    counts = pl.DataFrame({"seed": [0], "user_id": ["u"], "n_train": [12]})
    assert user_scores(predictions([["calm"]], [["calm"]]), card(), counts)["n_train"].to_list() == [12]


def test_a_package_can_add_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_loaded", dict(metrics._loaded))
    metrics.add("misses", Metric("misses", "Misses", ("single",), "rows", (pl.col("both") == 0).sum()))
    scores = user_scores(predictions([["calm"]] * 3, [["calm"], ["glad"], ["glad"]]), card())
    assert scores["misses"].to_list() == [2]


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        (predictions([["calm"]], [["sad"]]), "single", "the label 'sad' that task made-up does not know"),
        (predictions([["calm"]], [["calm"]]).drop("part"), "single", "column 'part' is missing"),
        (predictions([["calm"]], [["calm", "glad"]]), "single", "predicted has not exactly one label"),
        (predictions([["calm"]], [["calm"]], scores=[[0.0]]), "single", "one number for each of the 3 labels"),
        (predictions([["calm"]] * 3, [["calm"]] * 3, method=["a", "a", "b"]), "single", "1 users have a different"),
    ],
)
def test_frames_that_cannot_be_judged(frame: pl.DataFrame, kind: Kind, message: str) -> None:
    with pytest.raises(PeftuError, match=message):
        user_scores(frame, card(kind))
