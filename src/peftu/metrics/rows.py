"""The predictions frame checked and brought into the columns that the formulas of metrics read."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from peftu.data.labelling import as_number
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.metrics.chances import Reals, chances, row_chances
from peftu.metrics.metric import KEYS, PREDICTIONS, SYSTEM


def scored_rows(predictions: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    """Returns the test rows with KEYS, item_id, ``unit`` (number of the KEYS), ``scored`` and what formulas read.

    For kinds with labels: ``gold`` and ``said``, places in the label set (kind 'multi': lists of places), and
    ``gold_value`` and ``said_value``, where these stand on their scale (not for 'multi'); ``both`` and
    ``either``, sizes of the intersection and the union of the two sets; ``log_loss``, ``brier``, ``confidence``,
    ``right`` (see ``chances.row_chances``), null without probabilities. For kind 'text': ``gold`` and ``said``, the
    user's own answer and the system's, null where it wrote none; ``log_likelihood`` and ``tokens`` of the user's own,
    null without scores; vectors where the frame has them.

    Raises:
        PeftuError: a column is missing, a label is not on the card, scores do not fit the label set, a user and an
            item stand twice under one method and seed, or methods were tested on different rows.
    """
    missing = [name for name in PREDICTIONS if name not in predictions.columns]
    if missing:
        raise PeftuError(f"predictions: column '{missing[0]}' is missing — needed: {', '.join(PREDICTIONS)}")
    rows = predictions.filter(pl.col("part") == "test")
    # An all-null column has no type of its own when a frame was built from Python rows.
    rows = rows.cast({name: PREDICTIONS[name] for name in ("base", "predicted", "scores")})
    suffix = "@" + pl.col("base").fill_null("@")  # nothing ends with '@@': without a base the label stays
    named_twice = pl.col("method").str.ends_with(suffix)
    plain = pl.when(named_twice).then(pl.col("method").str.strip_suffix(suffix)).otherwise(pl.col("method"))
    rows = rows.with_columns(method=plain)
    nan = pl.col("scores").list.eval(pl.element().is_nan()).list.any().fill_null(value=False)
    answered = pl.col("predicted").is_not_null()
    if not card.answers.labelled:  # the user's own answer can be scored where no other was written
        answered |= pl.col("scores").is_not_null()
    rows = rows.with_columns(scored=answered & ~nan)
    units = rows.select(KEYS).unique(maintain_order=True).with_row_index("unit")
    rows = rows.join(units, on=KEYS, nulls_equal=True, maintain_order="left")
    _same_tests(rows)
    if not card.answers.labelled:
        return _with_answers(rows)
    _check_labels(rows, card)
    return _with_places(rows, card) if card.answers.exclusive else _with_sets(rows, card)


def target_matrix(rows: pl.DataFrame, column: str, labels: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Returns [rows, labels] whether a row of ``scored_rows`` has the label in this column ('gold' or 'said')."""
    matrix = np.zeros((len(rows), labels), dtype=np.bool_)
    numbers = pl.DataFrame({"row": np.arange(len(rows)), "place": rows[column]})
    if numbers["place"].dtype.is_nested():
        numbers = numbers.explode("place", empty_as_null=True)
    numbers = numbers.drop_nulls()
    matrix[numbers["row"].to_numpy(), numbers["place"].to_numpy()] = True
    return matrix


def label_values(labels: Sequence[str]) -> list[float]:
    """Returns [labels] where each label stands on its scale: its own number where all are numbers, else its place."""
    numbers = all(map(as_number, labels))
    return [float(label if numbers else place) for place, label in enumerate(labels)]


def row_probabilities(rows: pl.DataFrame, card: TaskCard) -> Reals:
    """Returns [rows, labels] the probabilities that rows of ``scored_rows`` carry; NaN without."""
    return chances(rows["scores"], len(card.labels), card.answers)


def _check_labels(rows: pl.DataFrame, card: TaskCard) -> None:
    for side in ("target", "predicted"):
        unknown = rows[side].explode(empty_as_null=True, keep_nulls=True).drop_nulls().unique()
        unknown = unknown.filter(~unknown.is_in(card.labels))
        if len(unknown):
            raise PeftuError(
                f"predictions: {side} has the label '{unknown[0]}' that task {card.name} does not know — "
                f"labels: {', '.join(card.labels)}"
            )
        if card.answers.exclusive and rows.select((pl.col(side).list.len() != 1).any()).item():
            raise PeftuError(f"predictions: {side} has not exactly one label in every row — task {card.name} needs one")
    if rows.select((pl.col("scores").list.len() != len(card.labels)).any()).item():
        raise PeftuError(f"predictions: scores must hold one number for each of the {len(card.labels)} labels")


def _with_answers(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.select((pl.col("scores").list.len() != 2).any()).item():
        raise PeftuError("predictions: scores must hold the answer's log-likelihood and its number of tokens")
    scores = (pl.col("scores").list.get(place).cast(pl.Float64) for place in (0, 1))
    rows = rows.with_columns(
        pl.col(side).list.first().alias(to) for side, to in (("target", "gold"), ("predicted", "said"))
    )
    return rows.with_columns(part.alias(name) for part, name in zip(scores, ("log_likelihood", "tokens"), strict=True))


def _with_places(rows: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    names = pl.Enum(card.labels)
    rows = rows.with_columns(
        pl.col(source).list.first().cast(names).to_physical().cast(pl.Int64).alias(side)
        for side, source in (("gold", "target"), ("said", "predicted"))
    ).with_columns(both=(pl.col("gold") == pl.col("said")).cast(pl.Int64))
    values = pl.Series(label_values(card.labels), dtype=pl.Float64)
    rows = rows.with_columns(pl.lit(values).gather(pl.col(side)).alias(f"{side}_value") for side in ("gold", "said"))
    return _with_chances(rows.with_columns(either=2 - pl.col("both")), card)


def _with_sets(rows: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    names = pl.List(pl.Enum(card.labels))
    rows = rows.with_columns(
        pl.col(source).list.unique().cast(names).alias(side)
        for side, source in (("gold", "target"), ("said", "predicted"))
    ).with_columns(
        both=pl.col("gold").list.set_intersection("said").list.len().cast(pl.Int64),
        either=pl.col("gold").list.set_union("said").list.len().cast(pl.Int64),
    )
    places = (pl.col(side).list.eval(pl.element().to_physical().cast(pl.Int64)) for side in ("gold", "said"))
    return _with_chances(rows.with_columns(*places), card)


def _with_chances(rows: pl.DataFrame, card: TaskCard) -> pl.DataFrame:
    if rows["scores"].null_count() == len(rows):
        names = ("log_loss", "brier", "confidence", "right")
        return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    gold = target_matrix(rows, "gold", len(card.labels))
    columns = row_chances(row_probabilities(rows, card), gold, card.answers)
    return rows.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in columns.items())


def _same_tests(rows: pl.DataFrame) -> None:
    """Checks that no row stands twice, and that all methods were tested on the same rows of a user in a seed."""
    # Hashed twice, so that two items cannot swap their targets unseen.
    row = (pl.col("item_id").hash() ^ pl.col("target").list.sort().list.join("\x1f").hash()).hash()
    tests = (
        rows.select("unit", *KEYS, "item_id", row=row)
        .group_by("unit")
        .agg(pl.col(*KEYS).first(), number=pl.len(), items=pl.col("item_id").n_unique(), rows=pl.col("row").sum())
        .sort("unit")
    )
    repeated = tests.filter(pl.col("items") < pl.col("number"))
    if len(repeated):
        first = repeated.row(0, named=True)
        raise PeftuError(
            f"predictions: {(repeated['number'] - repeated['items']).sum()} rows repeat a user and an item under "
            f"'{first['method']}', seed {first['seed']} — keep one row for each user and item"
        )
    systems = tests.group_by("seed").agg(systems=pl.struct(SYSTEM).n_unique())
    by_user = tests.group_by("seed", "user_id").agg(pl.col("number", "rows").n_unique(), units=pl.len())
    absent = by_user.join(systems, on="seed").filter(pl.col("units") < pl.col("systems"))
    if len(absent):
        raise PeftuError(
            f"predictions: {absent['user_id'].n_unique()} users have test rows under some methods only — "
            "compare methods on the same split only; a row without an answer stays in with none"
        )
    for column, what in (("number", "a different number of test rows"), ("rows", "other test items or targets")):
        differing = by_user.filter(pl.col(column) > 1)
        if len(differing):
            raise PeftuError(
                f"predictions: {len(differing)} users have {what} under different methods — "
                "compare methods on the same split only"
            )
