"""One row of scores per user."""

import polars as pl

from peftu.data.task import TaskCard
from peftu.metrics.generation import with_overlaps
from peftu.metrics.metric import KEYS, SYSTEM, metrics_of
from peftu.metrics.rows import scored_rows


def user_scores(predictions: pl.DataFrame, card: TaskCard, n_train: pl.DataFrame | None = None) -> pl.DataFrame:
    """Returns one row per method, base, seed and user: n_test, n_scored and the metrics of the card's kind.

    Only rows with ``part == 'test'`` count. Methods keep the order in which they first appear, users are sorted; a
    label 'lora@base' becomes 'lora', since the base has its own column. What each metric is stands in
    ``docs/judging.md``; null is 'not scored': there is no scored row, no probability, or the metric is 0/0.

    Args:
        predictions: the frame described by ``PREDICTIONS``.
        card: gives the label set and the kind.
        n_train: columns seed, user_id, n_train; added to the result for plots against the size of the training set.

    Raises:
        PeftuError: a column is missing, a label is not on the card, scores do not fit the label set, a row stands
            twice, or two methods were tested on different rows of a user.
    """
    rows = scored_rows(predictions, card)
    if not card.answers.labelled:
        rows = with_overlaps(rows)
    return scores_of_rows(rows, card, n_train)


def scores_of_rows(rows: pl.DataFrame, card: TaskCard, n_train: pl.DataFrame | None = None) -> pl.DataFrame:
    """Returns what ``user_scores`` does, from rows that ``scored_rows`` has prepared."""
    result = rows.group_by("unit", maintain_order=True).agg(
        pl.col(KEYS).first(), n_test=pl.len().cast(pl.Int64), n_scored=pl.col("scored").sum().cast(pl.Int64)
    )
    scored = rows.filter("scored")
    of_rows = [m for m in metrics_of(card.kind, "rows") if m.needs is None or m.needs in rows.columns]
    of_labels = metrics_of(card.kind, "labels")
    for frame, chosen in ((scored, of_rows), (_label_counts(scored), of_labels)):
        if chosen:
            scores = frame.group_by("unit").agg(metric.formula.alias(metric.name) for metric in chosen)
            result = result.join(scores, on="unit", how="left")
    has_rows = pl.col("n_scored") > 0
    result = result.with_columns(
        pl.when(has_rows).then(pl.col(metric.name).fill_null(metric.empty)).alias(metric.name) for metric in of_labels
    )
    if n_train is not None:
        result = result.join(n_train.select("seed", "user_id", "n_train"), on=["seed", "user_id"], how="left")
    order = result.select(SYSTEM).unique(maintain_order=True).with_row_index("_order")
    result = result.join(order, on=SYSTEM, nulls_equal=True).sort("_order", "seed", "user_id").drop("_order", "unit")
    leading = [*KEYS, *(name for name in ("n_train", "n_test", "n_scored", "accuracy") if name in result.columns)]
    return result.select(*leading, pl.exclude(leading))


def _label_counts(scored: pl.DataFrame) -> pl.DataFrame:
    """Returns one row per unit and label that occurs: rows with it in gold, in the prediction, in both."""
    if scored["gold"].dtype == pl.String:
        return pl.DataFrame(schema={"unit": pl.UInt32})
    if scored["gold"].dtype.is_nested():
        sides = {"gold": pl.col("gold"), "said": pl.col("said")}
        sides["both"] = pl.col("gold").list.set_intersection("said")
        parts = {s: scored.select("unit", label=sets).explode("label", empty_as_null=True) for s, sets in sides.items()}
    else:
        parts = {side: scored.select("unit", label=side) for side in ("gold", "said")}
        parts["both"] = scored.filter(pl.col("gold") == pl.col("said")).select("unit", label="gold")
    long = [
        part.drop_nulls("label")
        .group_by("unit", "label")
        .agg(pl.len().cast(pl.Int64).alias(side))
        .with_columns(pl.lit(0, pl.Int64).alias(other) for other in parts if other != side)
        .select("unit", "label", *parts)
        for side, part in parts.items()
    ]
    return pl.concat(long).group_by("unit", "label").agg(pl.col(*parts).sum())
