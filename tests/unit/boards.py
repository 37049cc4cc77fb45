"""Boards of made-up scores, and predictions that are right with a given chance."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.judge.board import Board
from peftu.metrics import PREDICTIONS, metrics


def board(values: npt.NDArray[np.float64], *, higher_is_better: bool = True) -> Board:
    """Returns a board of [users, methods] scores; methods are m0, m1, …"""
    users, methods = values.shape
    frame = pl.DataFrame(
        {
            "method": np.repeat([f"m{place}" for place in range(methods)], users),
            "base": pl.Series([None] * users * methods, dtype=pl.String),
            "seed": 0,
            "user_id": [f"u{user:05d}" for user in range(users)] * methods,
            "n_test": 10,
            "n_scored": 10,
            "accuracy": values.T.ravel(),
        }
    )
    return Board(frame, replace(metrics.get("accuracy"), higher_is_better=higher_is_better), 500)


def predictions(
    right: dict[str, npt.NDArray[np.bool_]], gold: npt.NDArray[np.integer], labels: tuple[str, ...] = ("no", "yes")
) -> pl.DataFrame:
    """Returns test predictions: gold [users, items] places of labels, right[method] [users, items]; one seed."""
    users, items = gold.shape
    names = np.array(labels)
    frames = [
        pl.DataFrame(
            {
                "method": method,
                "base": pl.Series([None] * users * items, dtype=pl.String),
                "seed": pl.Series([0] * users * items, dtype=pl.Int64),
                "user_id": np.repeat([f"u{user:05d}" for user in range(users)], items),
                "item_id": [f"i{item}" for item in range(items)] * users,
                "part": "test",
                "target": names[gold.ravel()][:, None].tolist(),
                "predicted": names[np.where(hit, gold, (gold + 1) % len(labels)).ravel()][:, None].tolist(),
                "scores": pl.Series([None] * users * items, dtype=PREDICTIONS["scores"]),
            }
        )
        for method, hit in right.items()
    ]
    return pl.concat(frames).select(*PREDICTIONS)
