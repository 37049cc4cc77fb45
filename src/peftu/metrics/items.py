"""One row of scores per item: how well a system sees who of an item's users says what (LeWiDi-2025)."""

import numpy as np
import polars as pl

from peftu.data.task import TaskCard
from peftu.metrics.labels import ALL
from peftu.metrics.metric import SYSTEM, Metric, metrics_of
from peftu.metrics.rows import label_values, row_probabilities, scored_rows, target_matrix

ITEM_KEYS = (*SYSTEM, "seed", "item_id")

_wrong = (pl.col("both") != pl.col("either")).mean()
ERROR_RATE = Metric("error_rate", "Error rate over items", ALL, "items", _wrong, higher_is_better=False)
ABSOLUTE_DISTANCE = Metric(
    "absolute_distance",
    "Absolute distance over items, share of the scale",
    ("ordinal",),
    "items",
    ((pl.col("gold_value") - pl.col("said_value")).abs() / pl.col("span")).mean(),
    higher_is_better=False,
)
MANHATTAN = Metric(
    "manhattan",
    "Manhattan distance to the users' distribution",
    ALL,
    "items",
    pl.col("manhattan").first(),
    higher_is_better=False,
    percent=False,
    bounds=(0.0, 2.0),
)
WASSERSTEIN = Metric(
    "wasserstein",
    "Wasserstein distance to the users' distribution",
    ("ordinal",),
    "items",
    pl.col("wasserstein").first(),
    higher_is_better=False,
    percent=False,
    bounds=(0.0, float("inf")),
)


def item_scores(predictions: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    """Returns one row per method, base, seed and item: n_users (scored) and the metrics over items.

    Items without a scored row are absent. Definitions follow LeWiDi-2025 (Leonardelli et al., 2025, 'perspectivist'
    and 'soft-label' evaluation); an item's predicted distribution is the mean over its users of the probabilities,
    or of the predicted labels for a system without probabilities.

    Raises:
        PeftuError: as for ``user_scores``.
    """
    return items_of_rows(scored_rows(predictions, card), card)


def items_of_rows(rows: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    """Returns what ``item_scores`` does, from rows that ``scored_rows`` has prepared."""
    chosen = metrics_of(card.kind, "items")
    scored = rows.filter("scored")
    if not chosen or scored.is_empty():
        return pl.DataFrame(schema={**{key: rows.schema[key] for key in ITEM_KEYS}, "n_users": pl.Int64})
    groups = scored.select(ITEM_KEYS).unique(maintain_order=True).with_row_index("group")
    scored = scored.join(groups, on=ITEM_KEYS, nulls_equal=True, maintain_order="left")
    if card.answers.exclusive:
        values = label_values(card.labels)
        scored = scored.with_columns(span=pl.lit(max(values) - min(values) or 1.0))
    scored = scored.with_columns(_distances(scored, card, len(groups)))
    return (
        scored.group_by("group", maintain_order=True)
        .agg(
            pl.col(ITEM_KEYS).first(),
            pl.len().cast(pl.Int64).alias("n_users"),
            *(metric.formula.alias(metric.name) for metric in chosen),
        )
        .drop("group")
    )


def _distances(scored: pl.DataFrame, card: TaskCard, groups: int) -> list[pl.Series]:
    """Returns, for each row, the distances between its item's predicted and observed distribution over labels.

    Kind 'multi': each label is a question of its own, with two answers; the distance is the mean over labels.
    """
    labels, group = len(card.labels), scored["group"].to_numpy()
    gold, predicted = (target_matrix(scored, side, labels).astype(np.float64) for side in ("gold", "said"))
    table = row_probabilities(scored, card)
    without = np.isnan(table).any(1)
    marked = scored.select(*SYSTEM, "seed", pl.Series("without", without))
    lacking = marked.select(pl.col("without").any().over(*SYSTEM, "seed")).to_series().to_numpy()
    table = np.where(lacking[:, None], predicted, table)
    sizes = np.bincount(group, minlength=groups)[:, None]
    gap = np.stack([np.bincount(group, table[:, k] - gold[:, k], groups) for k in range(labels)], axis=1) / sizes
    manhattan = 2 * card.answers.distance(np.abs(gap))
    steps = np.abs(np.diff(label_values(card.labels))) if card.answers.exclusive else np.ones(labels - 1)
    wasserstein = np.abs(np.cumsum(gap, axis=1)[:, :-1]) @ steps
    return [pl.Series("manhattan", manhattan[group]), pl.Series("wasserstein", wasserstein[group])]
