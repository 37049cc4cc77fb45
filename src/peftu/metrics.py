"""From predictions to one row of scores per user; needs no model.

A row of the predictions frame is *scored* when it has a prediction and scores without NaN. Rows that are not scored
are counted beside the metric and stay out of it: they are neither right nor wrong.
"""

from dataclasses import dataclass

import polars as pl

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.registry import Registry

SYSTEM = ("method", "base")
KEYS = (*SYSTEM, "seed", "user_id")

_LABELS = pl.List(pl.String)
PREDICTIONS: dict[str, pl.DataType] = {
    "method": pl.String(),
    "base": pl.String(),
    "seed": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "part": pl.String(),
    "target": _LABELS,
    "predicted": _LABELS,
    "scores": pl.List(pl.Float32),
}


@dataclass(frozen=True)
class Metric:
    """One number per user, as an aggregation that polars runs over all users at once.

    Attributes:
        name: column of the user-scores frame.
        title: how a reader meets it.
        kinds: kinds of task it is computed for.
        of: 'rows' when ``formula`` aggregates a user's scored rows (columns ``gold`` and ``said``: sets of labels;
            ``both`` and ``either``: sizes of their intersection and union), 'labels' when it aggregates the labels
            that occur in the user's gold or predictions (columns ``gold``, ``said``, ``both``: rows having them).
        formula: the aggregation.
        empty: value when there is nothing to aggregate ('labels' only: no gold and no predicted label anywhere).
        higher_is_better: False for errors; gains are turned so that more is always better.
        percent: shown as a percentage.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    of: str
    formula: pl.Expr
    empty: float = 1.0
    higher_is_better: bool = True
    percent: bool = True


_exact = (pl.col("both") == pl.col("either")).mean()
_overlap = pl.when(pl.col("either") == 0).then(1.0).otherwise(pl.col("both") / pl.col("either")).mean()
_place_gold, _place_said = (pl.col(side).list.first().to_physical().cast(pl.Int64) for side in ("gold", "said"))
_ALL = ("single", "ordinal", "multi")

ACCURACY = Metric("accuracy", "Accuracy", _ALL, "rows", _exact)
MACRO_F1 = Metric(
    "macro_f1", "Macro-F1", _ALL, "labels", (2 * pl.col("both") / (pl.col("gold") + pl.col("said"))).mean()
)
EXACT_MATCH = Metric("exact_match", "Exact match", ("multi",), "rows", _exact)
JACCARD = Metric("jaccard", "Jaccard", ("multi",), "rows", _overlap)
MICRO_F1 = Metric(
    "micro_f1", "Micro-F1", ("multi",), "labels", 2 * pl.col("both").sum() / (pl.col("gold") + pl.col("said")).sum()
)
MAE = Metric(
    "mae",
    "Mean absolute error",
    ("ordinal",),
    "rows",
    (_place_gold - _place_said).abs().mean(),
    higher_is_better=False,
    percent=False,
)

metrics: Registry[Metric] = Registry(
    "metric",
    {
        metric: f"peftu.metrics:{metric.upper()}"
        for metric in ("accuracy", "macro_f1", "exact_match", "jaccard", "micro_f1", "mae")
    },
)


def user_scores(predictions: pl.DataFrame, card: TaskCard, n_train: pl.DataFrame | None = None) -> pl.DataFrame:
    """Returns one row per method, base, seed and user: n_test, n_scored and the metrics of the card's kind.

    Only rows with ``part == 'test'`` count. Methods keep the order in which they first appear, users are sorted; a
    label 'lora@base' becomes 'lora', since the base has its own column.
    With h the gold and p the predicted set of labels of a row, t_l, g_l and s_l the rows of a user in which label l
    is in both, in gold, in the prediction:

    * accuracy: share of rows with h = p. For kind 'multi' this is the strict subset accuracy, and ``exact_match``
      repeats it under the name the field uses.
    * macro_f1: mean of 2 t_l / (g_l + s_l) over the labels that occur in this user's gold or predictions
      (scikit-learn's ``f1_score(average='macro', zero_division=0)`` for 'single' and 'ordinal'; for 'multi' with
      ``labels=`` those that occur, since scikit-learn would count every absent label as 0).
    * micro_f1 (multi): 2 Σ t_l / Σ (g_l + s_l).
    * jaccard (multi): mean of |h ∩ p| / |h ∪ p|.
    * mae (ordinal): mean distance in steps of the label order.

    Where gold and prediction are both empty sets they agree: Jaccard and F1 are 1. Without a scored row they are null.

    Args:
        predictions: the frame described by ``PREDICTIONS``.
        card: gives the label set and the kind.
        n_train: columns seed, user_id, n_train; added to the result for plots against the size of the training set.

    Raises:
        PeftuError: a column is missing, a label is not on the card, scores do not fit the label set, two methods were
            tested on different numbers of rows of a user, or the kind is 'text'.
    """
    if card.kind == "text":
        raise PeftuError(f"task {card.name}: kind 'text' has no label metrics — score its answers with another tool")
    rows = _test_rows(predictions, card)
    counts = rows.group_by(KEYS, maintain_order=True).agg(n_test=pl.len(), n_scored=pl.col("scored").sum())
    _same_tests(counts)
    scored = rows.filter("scored")
    labels = _label_counts(scored)
    result = counts.cast({"n_test": pl.Int64, "n_scored": pl.Int64})
    chosen = [metric for metric in map(metrics.get, metrics.names()) if card.kind in metric.kinds]
    for frame, of in ((scored, "rows"), (labels, "labels")):
        scores = frame.group_by(KEYS).agg(metric.formula.alias(metric.name) for metric in chosen if metric.of == of)
        result = result.join(scores, on=KEYS, how="left", nulls_equal=True)
    has_rows = pl.col("n_scored") > 0
    result = result.with_columns(
        pl.when(has_rows).then(pl.col(metric.name).fill_null(metric.empty)).alias(metric.name)
        for metric in chosen
        if metric.of == "labels"
    )
    if n_train is not None:
        result = result.join(n_train.select("seed", "user_id", "n_train"), on=["seed", "user_id"], how="left")
    order = result.select(SYSTEM).unique(maintain_order=True).with_row_index("_order")
    result = result.join(order, on=SYSTEM, nulls_equal=True).sort("_order", "seed", "user_id").drop("_order")
    leading = [*KEYS, *(name for name in ("n_train", "n_test", "n_scored", "accuracy") if name in result.columns)]
    return result.select(*leading, pl.exclude(leading))


def _test_rows(predictions: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    """Returns the test rows with label sets as enums, their overlaps, and whether each row is scored."""
    missing = [name for name in PREDICTIONS if name not in predictions.columns]
    if missing:
        raise PeftuError(f"predictions: column '{missing[0]}' is missing — needed: {', '.join(PREDICTIONS)}")
    rows = predictions.filter(pl.col("part") == "test")
    # An all-null column has no type of its own when a frame was built from Python rows.
    rows = rows.cast({name: PREDICTIONS[name] for name in ("base", "predicted", "scores")})
    for side in ("target", "predicted"):
        unknown = rows[side].explode().drop_nulls().unique()
        unknown = unknown.filter(~unknown.is_in(card.labels))
        if len(unknown):
            raise PeftuError(
                f"predictions: {side} has the label '{unknown[0]}' that task {card.name} does not know — "
                f"labels: {', '.join(card.labels)}"
            )
        if card.kind != "multi" and rows.select((pl.col(side).list.len() != 1).any()).item():
            raise PeftuError(f"predictions: {side} has not exactly one label in every row — task {card.name} needs one")
    if rows.select((pl.col("scores").list.len() != len(card.labels)).any()).item():
        raise PeftuError(f"predictions: scores must hold one number for each of the {len(card.labels)} labels")
    labels = pl.List(pl.Enum(card.labels))
    suffix = "@" + pl.col("base").fill_null("@")  # nothing ends with '@@': without a base the label stays
    named_twice = pl.col("method").str.ends_with(suffix)
    plain = pl.when(named_twice).then(pl.col("method").str.strip_suffix(suffix)).otherwise(pl.col("method"))
    nan = pl.col("scores").list.eval(pl.element().is_nan()).list.any()
    return rows.with_columns(
        method=plain,
        gold=pl.col("target").list.unique().cast(labels),
        said=pl.col("predicted").list.unique().cast(labels),
        scored=pl.col("predicted").is_not_null() & pl.col("scores").is_not_null() & ~nan.fill_null(value=False),
    ).with_columns(
        both=pl.col("gold").list.set_intersection("said").list.len().cast(pl.Int64),
        either=pl.col("gold").list.set_union("said").list.len().cast(pl.Int64),
    )


def _label_counts(scored: pl.DataFrame) -> pl.DataFrame:
    """Returns one row per user and label that occurs: rows with it in gold, in the prediction, in both."""
    sides = {
        "gold": pl.col("gold"),
        "said": pl.col("said"),
        "both": pl.col("gold").list.set_intersection("said"),
    }
    long = [
        scored.select(*KEYS, label=sets)
        .explode("label")
        .drop_nulls("label")
        .select(*KEYS, "label", *(pl.lit(int(other == side)).alias(other) for other in sides))
        for side, sets in sides.items()
    ]
    return pl.concat(long).group_by(*KEYS, "label").agg(pl.col(*sides).sum())


def _same_tests(counts: pl.DataFrame) -> None:
    """Checks that all methods were tested on the same number of rows of a user in a seed."""
    differing = counts.group_by("seed", "user_id").agg(pl.col("n_test").n_unique()).filter(pl.col("n_test") > 1)
    if len(differing):
        raise PeftuError(
            f"predictions: {len(differing)} users have a different number of test rows under different methods — "
            "compare methods on the same split only"
        )
