"""Metrics of probabilities: computed for the rows of systems that give them, null for others."""

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.answers import Answers
from peftu.metrics.labels import ALL
from peftu.metrics.metric import Metric

Reals = npt.NDArray[np.float64]
BINS = 10
_SMALLEST = float(np.finfo(np.float64).eps)  # scikit-learn's: a certain and wrong answer costs 36 nats, not infinity

_surprise = (pl.col("confidence") - pl.col("right")) / pl.col("confidence").count()
# Ten bins of equal width, the upper edge inside (Guo et al., 2017).
_bin = (pl.col("confidence") * BINS).ceil().clip(1, BINS)
LOG_LOSS = Metric(
    "log_loss",
    "Log loss",
    ALL,
    "rows",
    pl.col("log_loss").mean(),
    higher_is_better=False,
    percent=False,
    bounds=(0.0, float("inf")),
    value=pl.col("log_loss"),
)
BRIER = Metric(
    "brier",
    "Brier score",
    ALL,
    "rows",
    pl.col("brier").mean(),
    higher_is_better=False,
    percent=False,
    value=pl.col("brier"),
)
ECE = Metric(
    "ece",
    "Expected calibration error",
    ("single", "ordinal"),
    "rows",
    pl.when(pl.col("confidence").count() > 0).then(
        pl.sum_horizontal(_surprise.filter(_bin == number).sum().abs() for number in range(1, BINS + 1))
    ),
    higher_is_better=False,
)


def chances(scores: pl.Series, labels: int, answers: Answers) -> Reals:
    """Returns [rows, labels] probabilities of log-probabilities; NaN in rows without."""
    known = scores.is_not_null().to_numpy()
    table = np.full((len(scores), labels), np.nan)
    given = scores.drop_nulls().explode(empty_as_null=False, keep_nulls=True).to_numpy().astype(np.float64)
    table[known] = given.reshape(-1, labels)
    return answers.probabilities(table)


def row_chances(table: Reals, gold: npt.NDArray[np.bool_], answers: Answers) -> dict[str, Reals]:
    """Returns log_loss, brier, confidence and right of each row; NaN where there are no probabilities.

    With p the probabilities and y the gold labels as 0 and 1: log loss -Σ y log p (one label) or the mean over labels
    of -y log p - (1-y) log(1-p) (multi); Brier ½ Σ (p-y)² (one label; for two labels Brier's score of one of them) or
    the mean of (p-y)² (multi). Confidence is the largest p, right is whether its label is gold.
    """
    missing = np.asarray(np.isnan(table).any(1))
    kept = np.clip(table, _SMALLEST, 1 - _SMALLEST)
    best = np.where(missing[:, None], 0.0, table).argmax(1)
    right = (gold & (np.arange(gold.shape[1]) == best[:, None])).any(1).astype(np.float64)
    return {
        "log_loss": answers.log_loss(kept, gold),
        "brier": answers.distance((table - gold) ** 2),
        "confidence": table.max(1),
        "right": np.where(missing, np.nan, right),
    }
