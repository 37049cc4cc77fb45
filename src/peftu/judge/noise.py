"""How much of what users seem to differ by is their few test items."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.judge.board import Board
from peftu.metrics import SYSTEM
from peftu.stats import Doubles
from peftu.system import System

_FEWEST_ITEMS = 2


@dataclass(frozen=True)
class ItemNoise:
    """The main metric's value of every test item under every method.

    Attributes:
        systems: the methods.
        user: [items] the number of the user whose item it is.
        values: [items, systems] averaged over seeds; NaN where it was not scored.
    """

    systems: tuple[System, ...]
    user: npt.NDArray[np.int64]
    values: Doubles

    @classmethod
    def of(cls, board: Board, rows: pl.DataFrame) -> "ItemNoise | None":
        """Returns the values of scored rows; None where the metric is no mean over rows."""
        if board.metric.value is None:
            return None
        value = board.metric.value.cast(pl.Float64)
        keys = ["user_id", "item_id"]
        cells = rows.filter("scored").group_by(*SYSTEM, *keys).agg(value=value.mean())
        items = cells.select(keys).unique().sort(keys).with_row_index("item")
        users = pl.DataFrame({"user_id": board.matrix.users}).with_row_index("user")
        systems = pl.DataFrame(
            [(system.method, system.base, place) for place, system in enumerate(board.systems)],
            schema={"method": pl.String, "base": pl.String, "system": pl.Int64},
            orient="row",
        )
        cells = cells.join(items, on=keys).join(systems, on=SYSTEM, nulls_equal=True)
        values = np.full((len(items), len(board.systems)), np.nan)
        values[cells["item"].to_numpy(), cells["system"].to_numpy()] = cells["value"].to_numpy()
        numbered = items.join(users, on="user_id", how="left", maintain_order="left")["user"]
        return cls(board.systems, numbered.to_numpy().astype(np.int64), values)

    def between(self, system: System, other: System, gains: Doubles) -> dict[str, float | None]:
        """Returns ``item_noise`` and ``items`` of a comparison, given users' gains.

        A user's gain is a mean over items, so its variance by chance is that of the items' gains over their number.
        The mean of that over users who have two items or more, over the variance of the users' gains, is the share.
        """
        change = self.values[:, self.systems.index(system)] - self.values[:, self.systems.index(other)]
        known = ~np.isnan(change)
        user, change = self.user[known], change[known]
        if not len(change):
            return {"item_noise": None, "items": None}
        counts = np.bincount(user).astype(np.float64)
        counts = counts[counts > 0]
        place = np.unique(user, return_inverse=True)[1]
        means = np.bincount(place, change) / counts
        spread = np.bincount(place, (change - means[place]) ** 2)
        several = counts >= _FEWEST_ITEMS
        share, present = None, gains[~np.isnan(gains)]
        total = float(present.var(ddof=1)) if len(present) > 1 else 0.0
        if several.any() and total > 0:
            chance = spread[several] / (counts[several] - 1) / counts[several]
            share = min(1.0, float(chance.mean()) / total)
        return {"item_noise": share, "items": float(counts.mean())}
