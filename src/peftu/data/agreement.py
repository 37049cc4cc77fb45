"""How much the users of a table agree: counts, label shares and Krippendorff's alpha."""

from typing import Any

import krippendorff
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from peftu.data.differences import differences
from peftu.data.table import UserTable

Counts = npt.NDArray[np.int64]
SEPARATOR = "\x1f"


def statistics(table: UserTable) -> dict[str, Any]:
    """Returns the table's size, spread and agreement, fit for JSON.

    Keys: users, texts (items), distinct_texts, annotations, examples_per_user, users_per_text, fewest_examples,
    median_examples, most_examples, labels_per_row, label_shares, alpha, alpha_metric ('nominal', 'ordinal' or 'masi',
    by the task's kind), alpha_masi, the benchmark's figure, disagreement and label_distance (see ``differences``; not
    for free text), and notes: what was left out, and how many of it. Alphas are None where nothing can agree.
    """
    frame, card = table.frame, table.card
    examples = frame.group_by("user_id").len()["len"].to_numpy()
    items = frame["item_id"].n_unique()
    given = frame["target"].explode().drop_nulls()
    counts = {str(label): int(number) for label, number in given.value_counts().iter_rows()}
    level = card.answers.level
    return {
        "users": len(examples),
        "texts": items,
        "distinct_texts": frame.select("text", "context").n_unique(),
        "annotations": frame.height,
        "examples_per_user": frame.height / len(examples),
        "users_per_text": frame.height / items,
        "fewest_examples": int(examples.min()),
        "median_examples": float(np.median(examples)),
        "most_examples": int(examples.max()),
        "labels_per_row": len(given) / frame.height,
        "label_shares": {label: counts.get(label, 0) / frame.height for label in card.labels},
        "alpha": alpha(table, level) if level else None,
        "alpha_metric": level,
        "alpha_masi": alpha(table, "masi") if level else None,
        **differences(table),
        "notes": table.notes,
    }


def alpha(table: UserTable, level: str) -> float | None:
    """Returns Krippendorff's alpha over items, or None where no two values differ or no item has two users.

    Args:
        table: the judgements; items that one user judged do not count.
        level: 'nominal' or 'ordinal' for one label a row, 'masi' for sets of labels (Passonneau, 2006).
    """
    if level == "masi":
        written = table.frame["target"].list.join(SEPARATOR)  # in label order, so a set is written in one way
        values = written.unique().sort().to_list()
        distance = _masi_distances([frozenset(value.split(SEPARATOR)) for value in values])
        numbers = written.replace_strict(values, list(range(len(values))), return_dtype=pl.Int64)
        return alpha_of_counts(_counts(table, numbers), distance)
    place = {label: number for number, label in enumerate(table.card.labels)}
    numbers = table.frame["target"].list.first().replace_strict(place, return_dtype=pl.Int64)
    counts = _counts(table, numbers)
    pairable = counts[np.asarray(counts.sum(1)).ravel() > 1].toarray()
    if (pairable.sum(0) > 0).sum() < 2:
        return None
    domain = np.arange(pairable.shape[1])
    return float(krippendorff.alpha(value_counts=pairable, value_domain=domain, level_of_measurement=level))


def masi_distance(first: frozenset[str], second: frozenset[str]) -> float:
    """Returns the MASI distance of two label sets: 1 minus Jaccard times how one set lies to the other.

    The factors are those of Passonneau (2006) as two-digit numbers, as the benchmark's reference code has them.
    """
    common = len(first & second)
    if not common:
        return 0.0 if first == second else 1.0
    factor = 1.0 if first == second else 0.67 if common == min(len(first), len(second)) else 0.33
    return 1 - common / len(first | second) * factor


def _masi_distances(values: list[frozenset[str]]) -> npt.NDArray[np.float64]:
    """Returns [values, values] ``masi_distance`` of every two of these sets, which differ and are not empty."""
    labels = sorted(set().union(*values))
    holds = np.array([[label in labels_of for label in labels] for labels_of in values], np.int64)
    common, size = holds @ holds.T, holds.sum(1)
    either = size[:, None] + size[None, :] - common
    factor = np.where(common == np.minimum(size[:, None], size[None, :]), 0.67, 0.33)
    np.fill_diagonal(factor, 1.0)
    return np.asarray(1 - common / either * factor, dtype=np.float64)


def alpha_of_counts(counts: sparse.csr_array, distance: npt.NDArray[np.float64]) -> float | None:
    """Returns Krippendorff's alpha for any distance (Krippendorff, 2011, from the matrix of coincidences).

    Args:
        counts: [items, values] how many users gave this value to this item.
        distance: [values, values] 0 on the diagonal.
    """
    raters = np.asarray(counts.sum(1)).ravel()
    counts, raters = counts[raters > 1], raters[raters > 1]
    if not len(raters):
        return None
    weighted = sparse.diags_array(1 / (raters - 1)) @ counts
    coincidences = (counts.T @ weighted).toarray() - np.diag(np.asarray(weighted.sum(0)).ravel())
    totals = coincidences.sum(0)
    expected = float(totals @ distance @ totals / (totals.sum() - 1))
    return 1 - float((coincidences * distance).sum()) / expected if expected else None


def _counts(table: UserTable, values: pl.Series) -> sparse.csr_array:
    """Returns [items, values] how many users gave each value to each item."""
    items = table.frame["item_id"].rank("dense").to_numpy().astype(np.int64) - 1
    number = values.to_numpy()
    shape = (int(items.max()) + 1, int(number.max()) + 1)
    return sparse.coo_array((np.ones(len(items), np.int64), (items, number)), shape=shape).tocsr()
