"""The majorities as rows of a board, from nothing but training labels."""

import polars as pl

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
    if train.is_empty() or card.kind == "text":
        return predictions
    answers = train.select("user_id", pl.col("target").list.sort()).with_columns(common=pl.len().over("target"))
    name_of = pl.col("target").list.join("|")
    overall = answers.sort(pl.col("common"), name_of, descending=[True, False])["target"][0]
    own = (
        answers.group_by("user_id", "target")
        .agg(pl.col("common").first(), own=pl.len())
        .sort(pl.col("own"), pl.col("common"), name_of, descending=[True, True, False])
        .unique("user_id", keep="first", maintain_order=True)
        .select("user_id", chosen="target")
    )
    keys = ["seed", "user_id", "item_id"]
    rows = predictions.unique(keys, maintain_order=True).join(own, on="user_id", how="left", maintain_order="left")
    fallback = pl.lit(pl.Series([overall.to_list()], dtype=PREDICTIONS["target"])).first()
    said = {GLOBAL_MAJORITY: fallback, USER_MAJORITY: pl.coalesce("chosen", fallback)}
    frames = [
        rows.with_columns(
            method=pl.lit(name),
            base=pl.lit(None, pl.String),
            predicted=answer,
            scores=pl.lit(None, PREDICTIONS["scores"]),
        ).select(predictions.columns)
        for name, answer in said.items()
        if name not in present
    ]
    return pl.concat([*frames, predictions])
