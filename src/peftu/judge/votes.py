"""What other users say about the same texts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.answers import Answers, answers_of
from peftu.data.task import TaskCard
from peftu.stats import Doubles

Places = npt.NDArray[np.int64]
TEXT = ("text", "context")
TIE = 1e-9  # far below what one vote weighs


@dataclass(frozen=True)
class Votes:
    """Judgements with what other users said about the same text.

    Attributes:
        rows: user_id, item_id, target, text_key of each judgement, sorted by the first two.
        given: [rows, labels] 1 where the row's user gave the label.
        others: [rows, labels] how many of the other users' judgements of the text have the label.
        voters: [rows] how many judgements of the text are other users'.
        common: [labels] share of all judgements with the label; breaks ties.
        answers: the kind.
    """

    rows: pl.DataFrame
    given: Doubles
    others: Doubles
    voters: Doubles
    common: Doubles
    answers: Answers

    @property
    def shares(self) -> Doubles:
        """Returns [rows, labels] the share of other users' judgements with the label; NaN where there are none."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.others / np.where(self.voters > 0, self.voters, np.nan)[:, None])

    @cached_property
    def majority(self) -> npt.NDArray[np.bool_]:
        """Returns [rows, labels] the label that most others give, the commoner overall in a tie; all False without
        others.

        Kind 'multi': the labels that more than half of them give, or else the one that most give.
        """  # noqa: D205
        most = self.answers.decide(np.nan_to_num(self.shares) + TIE * self.common, 0.5 + TIE)
        return np.asarray(most & (self.voters > 0)[:, None])

    def at(self, tests: pl.DataFrame) -> Places:
        """Returns [tests] the row of each user_id and item_id; -1 where there is none."""
        numbered = self.rows.select("user_id", "item_id").with_row_index("row")
        places = tests.select("user_id", "item_id").join(
            numbered, on=["user_id", "item_id"], how="left", maintain_order="left"
        )
        return places["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def votes(judgements: pl.DataFrame, card: TaskCard) -> Votes:
    """Returns what others say of every judgement's text.

    Args:
        judgements: user_id, item_id, target and, where there are texts, text and context; two items with the same text
            and context are one text. Without texts an item is a text.
        card: gives the label set.
    """
    key = [name for name in TEXT if name in judgements.columns] or ["item_id"]
    rows = judgements.select("user_id", "item_id", "target", pl.struct(key).rank("dense").alias("text_key"))
    rows = rows.sort("user_id", "item_id")
    number = rows.select(pl.int_range(pl.len()).alias("row"), "target").explode("target", empty_as_null=True)
    number = number.drop_nulls("target").with_columns(
        pl.col("target").cast(pl.Enum(card.labels)).to_physical().cast(pl.Int64).alias("label")
    )
    given = np.zeros((len(rows), len(card.labels)))
    given[number["row"].to_numpy(), number["label"].to_numpy()] = 1.0
    text = rows["text_key"].to_numpy().astype(np.int64) - 1
    same = rows.select(pl.struct("text_key", "user_id").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    everyone, mine = _summed(text, given), _summed(same, given)
    voters = np.bincount(text)[text] - np.bincount(same)[same]
    return Votes(
        rows, given, everyone[text] - mine[same], voters.astype(np.float64), given.mean(0), answers_of(card.kind)
    )


def _summed(group: Places, values: Doubles) -> Doubles:
    return np.stack([np.bincount(group, values[:, label]) for label in range(values.shape[1])], axis=1)
