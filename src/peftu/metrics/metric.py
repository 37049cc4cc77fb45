"""What a metric is, the registry of metrics, and the predictions frame that they are computed from."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from peftu.registry import Registry

SYSTEM = ("method", "base")
KEYS = (*SYSTEM, "seed", "user_id")

_LABELS = pl.List(pl.String)
# scores: log-probability of each label among the labels (single, ordinal) or on its own (multi); kind 'text': the
# log-likelihood of the user's own answer and its number of tokens. Null where a system gives none.
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
    """One number per user (or per item), as an aggregation that polars runs over all of them at once.

    Attributes:
        name: column of the scores frame.
        title: how a reader meets it.
        kinds: kinds of task it is computed for.
        of: 'rows' when ``formula`` aggregates a user's scored rows (see ``rows.scored_rows`` for their columns),
            'labels' when it aggregates the labels that occur in the user's gold or predictions (columns ``gold``,
            ``said``, ``both``: rows having them), 'items' when it aggregates all users' rows of an item.
        formula: the aggregation.
        empty: value when there is nothing to aggregate ('labels' only: no gold and no predicted label anywhere).
        higher_is_better: False for errors; gains are turned so that more is always better.
        percent: shown as a percentage.
        bounds: smallest and largest value; intervals stay inside.
        needs: a further column of the predictions without which it is not computed.
        value: of one row, where the metric is the mean of it over a user's rows; lets chance be laid on items too.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    of: Literal["rows", "labels", "items"]
    formula: pl.Expr
    empty: float = 1.0
    higher_is_better: bool = True
    percent: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    needs: str | None = None
    value: pl.Expr | None = None


metrics: Registry[Metric] = Registry(
    "metric",
    {
        **{
            metric: f"peftu.metrics.labels:{metric.upper()}"
            for metric in (
                *("accuracy", "macro_f1", "balanced_accuracy", "exact_match", "jaccard", "micro_f1", "any_match"),
                *("mae", "quadratic_kappa"),
            )
        },
        **{metric: f"peftu.metrics.chances:{metric.upper()}" for metric in ("log_loss", "brier", "ece")},
        **{
            metric: f"peftu.metrics.items:{metric.upper()}"
            for metric in ("error_rate", "absolute_distance", "manhattan", "wasserstein")
        },
        **{
            metric: f"peftu.metrics.generation:{metric.upper()}"
            for metric in ("perplexity", "rouge_1", "rouge_l", "chrf", "embedding_similarity", "distinctness")
        },
    },
)


def metrics_of(kind: str, *of: str) -> list[Metric]:
    """Returns the metrics of a kind of task, in the order of their names.

    Args:
        kind: a task's kind.
        of: what they aggregate ('rows', 'labels', 'items').
    """
    registered = map(metrics.get, metrics.names())
    return [metric for metric in registered if kind in metric.kinds and metric.of in of]
