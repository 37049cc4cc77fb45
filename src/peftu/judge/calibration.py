"""How far a method's probabilities can be believed."""

import polars as pl

from peftu.answers import OneOf
from peftu.data.task import TaskCard
from peftu.judge.shapes import Reliability, ReliabilityBin
from peftu.metrics import SYSTEM
from peftu.metrics.chances import BINS
from peftu.system import System


def reliability(rows: pl.DataFrame, card: TaskCard) -> tuple[Reliability, ...]:
    """Returns, for methods that give probabilities, ten bins of equal width of confidence, all users' rows together.

    Confidence is the largest probability; its error is the mean over rows of the distance between a bin's confidence
    and its share of right answers (Guo et al., 2017). The metric ``ece`` is the same within each user, which few rows
    make large by chance.

    Args:
        rows: what ``peftu.metrics.rows.scored_rows`` returns.
        card: the task; only kinds with one label a row have bins.
    """
    if not isinstance(card.answers, OneOf):
        return ()
    known = rows.filter("scored").drop_nulls(["confidence", "right"])
    number = (pl.col("confidence") * BINS).ceil().clip(1, BINS).cast(pl.Int64)
    bins = known.group_by(*SYSTEM, number=number).agg(pl.col("confidence", "right").mean(), rows=pl.len())
    systems = [System(*row) for row in known.select(SYSTEM).unique(maintain_order=True).rows()]
    return tuple(_reliability(system, bins.filter(system.rows).sort("number")) for system in systems)


def _reliability(system: System, bins: pl.DataFrame) -> Reliability:
    gap = (pl.col("confidence") - pl.col("right")).abs() * pl.col("rows")
    return Reliability(
        system=system,
        rows=int(bins["rows"].sum()),
        error=float(bins.select(gap.sum() / pl.col("rows").sum()).item()),
        bins=tuple(
            ReliabilityBin(low=(number - 1) / BINS, high=number / BINS, confidence=confidence, right=right, rows=count)
            for number, confidence, right, count in bins.select("number", "confidence", "right", "rows").iter_rows()
        ),
    )
