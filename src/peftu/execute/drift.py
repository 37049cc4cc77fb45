"""Whose answers changed between two versions of one run, as when its table has grown."""

from pathlib import Path

import polars as pl

from peftu.errors import PeftuError
from peftu.results import load_run
from peftu.run_folder import is_kept

PLACE = ("method", "base", "seed", "user_id", "item_id")


def drift(before: Path, predictions: pl.DataFrame) -> list[str]:
    """Returns a line for each method: of how many users answers changed, among items that both versions answered.

    Args:
        before: folder of the earlier version; nothing is said where it holds no whole run.
        predictions: of the version now.
    """
    if not is_kept(before):
        return []
    try:
        earlier = load_run(before).predictions()
    except PeftuError:
        return []
    both = predictions.join(earlier.select(*PLACE, was="predicted"), on=PLACE, nulls_equal=True)
    changed = both.with_columns(changed=pl.col("predicted").ne_missing(pl.col("was")))
    users = changed.group_by("method", "base", "user_id", maintain_order=True).agg(
        pl.col("changed").any(), answers=pl.len(), differ=pl.col("changed").sum()
    )
    lines = []
    for (method, base), of in users.group_by("method", "base", maintain_order=True):
        label = f"{method}@{base}" if base else str(method)
        share = int(of["differ"].sum()) / int(of["answers"].sum())
        lines.append(
            f"since the version before, answers of {label} changed for {of['changed'].sum():,} of {len(of):,} users "
            f"({share:.1%} of the answers that both gave)"
        )
    return lines
