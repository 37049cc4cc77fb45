"""The majorities as rows of a board, from nothing but training labels."""

import numpy as np
import polars as pl

from peftu.answers import commonest
from peftu.data.task import TaskCard
from peftu.metrics import PREDICTIONS
from peftu.results import USER_MAJORITY

GLOBAL_MAJORITY = "global-majority"


def with_majorities(predictions: pl.DataFrame, train: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    """Returns the predictions with those of the two majorities before them, where there are labels to learn from.

    A majority that the predictions already have is left alone. Ties, and users without training rows, go by what is
    commoner among all users; kind 'multi': whole sets of labels.

    Args:
        predictions: the frame described by ``PREDICTIONS``.
        train: user_id, item_id and target of training rows.
        card: the task.
    """
    present = set(predictions["method"].unique())
    if train.is_empty() or not card.answers.labelled:
        return predictions
    answers = [tuple(sorted(target)) for target in train["target"].to_list()]
    order = sorted(set(answers), key=lambda labels: ("|".join(labels), labels))
    place = {labels: number for number, labels in enumerate(order)}
    given = np.array([place[labels] for labels in answers])
    users = train["user_id"].unique().sort()
    user = users.search_sorted(train["user_id"]).to_numpy().astype(np.int64)
    chosen = [order[number] for number in commonest(user, len(users), given)]
    habits = pl.DataFrame({"user_id": users, "chosen": pl.Series(chosen, dtype=PREDICTIONS["target"])})
    (overall,) = commonest(np.zeros_like(given), 1, given)
    keys = ["seed", "user_id", "item_id"]
    rows = predictions.unique(keys, maintain_order=True).join(habits, on="user_id", how="left", maintain_order="left")
    fallback = pl.lit(pl.Series([order[overall]], dtype=PREDICTIONS["target"])).first()
    majorities = {GLOBAL_MAJORITY: fallback, USER_MAJORITY: pl.coalesce("chosen", fallback)}
    frames = [
        rows.with_columns(
            method=pl.lit(name),
            base=pl.lit(None, pl.String),
            predicted=answer,
            scores=pl.lit(None, PREDICTIONS["scores"]),
        ).select(predictions.columns)
        for name, answer in majorities.items()
        if name not in present
    ]
    return pl.concat([*frames, predictions])
