"""From predictions to scores per user and per item; needs no model.

A row of the predictions frame is *scored* when it has a prediction and no NaN among its scores. Rows that are not
scored are counted beside the metric and stay out of it: they are neither right nor wrong.
"""

from peftu.metrics.items import ITEM_KEYS, item_scores
from peftu.metrics.metric import KEYS, PREDICTIONS, SYSTEM, Metric, metrics, metrics_of
from peftu.metrics.users import user_scores

__all__ = [
    "ITEM_KEYS",
    "KEYS",
    "PREDICTIONS",
    "SYSTEM",
    "Metric",
    "item_scores",
    "metrics",
    "metrics_of",
    "user_scores",
]
