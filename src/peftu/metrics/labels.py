"""Metrics of labels: right or wrong, how much of a set, how far off."""

import polars as pl

from peftu.metrics.metric import Metric

ONE, ALL = ("single", "ordinal"), ("single", "ordinal", "multi")

_exact = pl.col("both") == pl.col("either")
_overlap = pl.when(pl.col("either") == 0).then(1.0).otherwise(pl.col("both") / pl.col("either"))
_any = (pl.col("both") > 0) | (pl.col("either") == 0)
_gold, _said = pl.col("gold"), pl.col("said")
_gold_value, _said_value = pl.col("gold_value"), pl.col("said_value")

ACCURACY = Metric("accuracy", "Accuracy", ALL, "rows", _exact.mean(), value=_exact)
MACRO_F1 = Metric("macro_f1", "Macro-F1", ALL, "labels", (2 * pl.col("both") / (_gold + _said)).mean())
BALANCED_ACCURACY = Metric(
    "balanced_accuracy", "Balanced accuracy", ONE, "labels", (pl.col("both") / _gold).filter(_gold > 0).mean()
)
EXACT_MATCH = Metric("exact_match", "Exact match", ("multi",), "rows", _exact.mean(), value=_exact)
JACCARD = Metric("jaccard", "Jaccard", ("multi",), "rows", _overlap.mean(), value=_overlap)
# What PEFT-U's own code calls accuracy where there are several labels; naming every label scores 100 %.
ANY_MATCH = Metric("any_match", "Any match (PEFT-U's)", ("multi",), "rows", _any.mean(), value=_any)
MICRO_F1 = Metric("micro_f1", "Micro-F1", ("multi",), "labels", 2 * pl.col("both").sum() / (_gold + _said).sum())
MAE = Metric(
    "mae",
    "Mean absolute error",
    ("ordinal",),
    "rows",
    (_gold_value - _said_value).abs().mean(),
    higher_is_better=False,
    percent=False,
    bounds=(0.0, float("inf")),
    value=(_gold_value - _said_value).abs(),
)
# 1 - sum(w O) / sum(w E) with w = (i - j)^2 of values (Cohen, 1968), as sums over the rows; 0/0 is not scored.
_by_chance = pl.len() * ((_gold_value**2).sum() + (_said_value**2).sum()) - 2 * _gold_value.sum() * _said_value.sum()
QUADRATIC_KAPPA = Metric(
    "quadratic_kappa",
    "Quadratic kappa",
    ("ordinal",),
    "rows",
    pl.when(_by_chance > 0).then(1 - pl.len() * ((_gold_value - _said_value) ** 2).sum() / _by_chance),
    percent=False,
    bounds=(-1.0, 1.0),
)
