"""When to personalise: a module is kept only for users whose validation rows support it."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge.shapes import Guarded
from peftu.metrics import Metric, metrics
from peftu.metrics.rows import scored_rows
from peftu.stats import Doubles
from peftu.system import System

_FEWEST_ROWS = 2


def guard(
    module: pl.DataFrame, fallbacks: Mapping[System, pl.DataFrame], card: TaskCard, label: str
) -> tuple[pl.DataFrame, Guarded, tuple[str, ...]]:
    """Returns the predictions of a module for users it is kept for, and of a fallback for the others; and the former.

    The fallback is the one with the best validation score, averaged over users. With d_u a user's mean gain of the
    module over it on validation rows, v_u = σ² / rows its variance (σ² pooled over users), and τ² the spread of true
    gains between users (DerSimonian & Laird, 1986), the module is kept where the shrunken gain
    m + τ² / (τ² + v_u) (d_u - m) is above 0, m being the users' weighted mean. A user's few validation rows thus
    count as far as users differ at all. Users without validation rows fall back. Test rows are never looked at.

    Args:
        module: one method's predictions at one seed, 'val' and 'test' rows.
        fallbacks: predictions of reference methods at that seed, the preferred first.
        card: the task.
        label: how the guarded method is called; it keeps the module's base.

    Raises:
        PeftuError: there is no fallback.
    """
    if not fallbacks:
        raise PeftuError(f"{label}: has nothing to fall back to — run user-majority beside it")
    metric = metrics.get(card.main_metric)
    if metric.value is None:  # not a mean over rows, so no row's gain in it
        metric = metrics.get("accuracy")
    values = {system: _validation(frame, card, metric) for system, frame in fallbacks.items()}
    chosen = max(values, key=lambda system: _mean_over_users(values[system]))
    kept = _supported(_validation(module, card, metric), values[chosen])
    keep = pl.col("user_id").is_in(kept)
    fallback = fallbacks[chosen].filter(~keep).with_columns(base=pl.lit(module["base"].first(), pl.String))
    frame = pl.concat([module.filter(keep), fallback]).with_columns(method=pl.lit(label))
    guarded = Guarded(system=System(label), fallback=chosen, users=module["user_id"].n_unique(), kept=len(kept))
    return frame.sort("user_id", "item_id"), guarded, tuple(kept)


def shrunken_gains(gains: Doubles, rows: Doubles, variance: float) -> Doubles:
    """Returns [users] gains drawn towards their mean by how little users differ beyond chance.

    Args:
        gains: [users] mean gain over a user's rows.
        rows: [users] number of these rows.
        variance: of one row's gain within a user.
    """
    if not variance:
        return gains
    weight = rows / variance
    mean = float((weight * gains).sum() / weight.sum())
    excess = float((weight * (gains - mean) ** 2).sum()) - (len(gains) - 1)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    mean = float((gains / (between + 1 / weight)).sum() / (1 / (between + 1 / weight)).sum())
    return np.asarray(mean + between / (between + 1 / weight) * (gains - mean))


def _validation(frame: pl.DataFrame, card: TaskCard, metric: Metric) -> pl.DataFrame:
    """Returns user_id, item_id and value (more is better) of the validation rows."""
    rows = scored_rows(frame.filter(pl.col("part") == "val").with_columns(part=pl.lit("test")), card)
    assert metric.value is not None  # noqa: S101
    value = metric.value.cast(pl.Float64) * (1.0 if metric.higher_is_better else -1.0)
    return rows.filter("scored").select("user_id", "item_id", value=value).drop_nulls("value")


def _mean_over_users(rows: pl.DataFrame) -> float:
    mean = rows.group_by("user_id").agg(pl.col("value").mean()).sort("user_id")["value"].mean()
    return float(mean) if isinstance(mean, float) else -float("inf")


def _supported(module: pl.DataFrame, other: pl.DataFrame) -> list[str]:
    """Returns the users whose validation rows support the one over the other."""
    both = module.join(other, on=["user_id", "item_id"]).with_columns(gain=pl.col("value") - pl.col("value_right"))
    users = both.group_by("user_id").agg(pl.col("gain").mean(), rows=pl.len(), spread=pl.col("gain").var())
    users = users.sort("user_id")
    if users.is_empty():
        return []
    gains, rows = users["gain"].to_numpy(), users["rows"].to_numpy().astype(np.float64)
    within = users.filter(pl.col("rows") >= _FEWEST_ROWS).select(
        ((pl.col("rows") - 1) * pl.col("spread")).sum() / (pl.col("rows") - 1).sum()
    )
    variance = float(within.item() or 0.0) or float(np.var(gains))
    kept = shrunken_gains(gains, rows, variance) > 0
    return users["user_id"].filter(pl.Series(kept)).to_list()
