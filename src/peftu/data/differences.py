"""How much each user differs from the others: from their majority on shared items, and in the labels given at all."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.data.table import UserTable

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
CHUNK = 1 << 22  # numbers held at once for comparing rows with the other users
QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "most": 1.0}
BINS = 20


class _Answers(NamedTuple):
    """Who gave which labels to what.

    Attributes:
        user: [rows] number of the user.
        item: [rows] number of the item.
        row: [answers] row of each label that was given, in order.
        label: [answers] its number.
        labels: size of the label set.
        exclusive: whether a row has exactly one.
    """

    user: Counts
    item: Counts
    row: Counts
    label: Counts
    labels: int
    exclusive: bool


def differences(table: UserTable) -> dict[str, Any]:
    """Returns how much the users differ from the others, fit for JSON; {} for free text, which has no majority.

    Keys: disagreement and label_distance (see ``user_differences``), each with users (that it can be said of), mean,
    the quantiles of QUANTILES, and histogram: how many users lie in each of BINS equal steps from 0 to 1.
    """
    if not table.card.answers.labelled:
        return {}
    disagreement, _, distance = _measured(table)
    return {"disagreement": _summary(disagreement), "label_distance": _summary(distance)}


def user_differences(table: UserTable) -> list[dict[str, Any]]:
    """Returns for each user, by the place (from 1) of the sorted keys: examples, compared and two differences.

    * disagreement: the share of the user's answers that are not the commonest answer of the item's other users.
      ``compared`` counts the answers that have one: items that nobody else judged, or on which the others are tied,
      say nothing. Where several labels may be given, each label is an answer of its own: given or not.
    * label_distance: the total variation distance between the user's label shares and everybody else's, over all
      items. Users who were shown other items differ for that reason too.

    Either is None where nothing can be compared; there is no object for free text.
    """
    if not table.card.answers.labelled:
        return []
    examples = table.frame.group_by("user_id").len().sort("user_id")["len"]
    return [
        {"user": number, "examples": rows, "compared": int(compared)}
        | {"disagreement": _known(disagreement), "label_distance": _known(distance)}
        for number, (rows, disagreement, compared, distance) in enumerate(
            zip(examples, *_measured(table), strict=True), 1
        )
    ]


def _measured(table: UserTable) -> tuple[Reals, Counts, Reals]:
    """Returns [users] disagreement, how many answers could be compared, and label distance, by sorted keys."""
    frame, card = table.frame, table.card
    user, item = (frame[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "item_id"))
    place = {label: number for number, label in enumerate(card.labels)}
    given = frame.select("target").with_row_index("row").explode("target")
    row, label = given["row"].to_numpy().astype(np.int64), given["target"].replace_strict(place, return_dtype=pl.Int64)
    answers = _Answers(user, item, row, label.to_numpy(), len(card.labels), card.answers.exclusive)
    wrong, compared = _against_the_others(answers)
    disagreement = np.divide(wrong, compared, out=np.full(len(wrong), np.nan), where=compared > 0)
    shares = _counted(user[row], answers.label, (len(wrong), answers.labels))
    return disagreement, compared, _distance_from_the_rest(shares)


def _against_the_others(given: _Answers) -> tuple[Counts, Counts]:
    """Returns [users] how many answers are not the others' commonest one, and how many answers could be compared."""
    user, item, row = given.user, given.item, given.row
    votes = _counted(item[row], given.label, (int(item.max()) + 1, given.labels))
    judges = np.bincount(item)
    starts = np.searchsorted(row, np.arange(len(user) + 1))
    wrong, compared = np.zeros((2, int(user.max()) + 1), np.int64)
    step = max(1, CHUNK // given.labels)
    for first in range(0, len(user), step):
        rows = slice(first, min(first + step, len(user)))
        answers = slice(starts[rows.start], starts[rows.stop])
        marks = np.zeros((rows.stop - rows.start, given.labels), bool)
        marks[row[answers] - first, given.label[answers]] = True
        others, number = votes[item[rows]] - marks, judges[item[rows], None] - 1
        if given.exclusive:
            top = others.max(1, keepdims=True)
            decided = ((others == top).sum(1, keepdims=True) == 1) & (number > 0)
            differs = decided & ~(marks & (others == top)).any(1, keepdims=True)
        else:
            decided = 2 * others != number
            differs = decided & (marks != (2 * others > number))
        np.add.at(wrong, user[rows], differs.sum(1))
        np.add.at(compared, user[rows], decided.sum(1))
    return wrong, compared


def _distance_from_the_rest(counts: Counts) -> Reals:
    """Returns [users] half the sum of differences between a user's label shares and those of all others together."""
    rest = counts.sum(0) - counts
    if len(counts) < 2:
        return np.full(len(counts), np.nan)
    return np.asarray(np.abs(counts / counts.sum(1, keepdims=True) - rest / rest.sum(1, keepdims=True)).sum(1) / 2)


def _counted(rows: Counts, columns: Counts, shape: tuple[int, int]) -> Counts:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _summary(values: Reals) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"users": 0, "mean": None, **dict.fromkeys(QUANTILES), "histogram": [0] * BINS}
    steps = np.minimum((known * BINS + 1e-9).astype(np.int64), BINS - 1)
    quantiles = {name: float(np.quantile(known, share)) for name, share in QUANTILES.items()}
    histogram = np.bincount(steps, minlength=BINS).tolist()
    return {"users": len(known), "mean": float(known.mean()), **quantiles, "histogram": histogram}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
