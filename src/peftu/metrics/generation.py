"""Metrics of answers in free text: how likely the user's own, how close to it another, and is that theirs alone."""

from collections import defaultdict

import numpy as np
import polars as pl

from peftu.metrics.metric import Metric
from peftu.metrics.overlap import chrf, rouge_1, rouge_l, words

TARGET_VECTOR, PREDICTED_VECTOR = "target_vector", "predicted_vector"


def _mean(name: str, title: str, **fields: object) -> Metric:
    return Metric(name, title, ("text",), "rows", pl.col(name).mean(), value=pl.col(name), **fields)  # type: ignore[arg-type]


PERPLEXITY = Metric(
    "perplexity",
    "Perplexity",
    ("text",),
    "rows",
    (-pl.col("log_likelihood").sum() / pl.col("tokens").sum()).exp(),
    higher_is_better=False,
    percent=False,
    bounds=(1.0, float("inf")),
)
ROUGE_1 = _mean("rouge_1", "ROUGE-1")
ROUGE_L = _mean("rouge_l", "ROUGE-L")
CHRF = _mean("chrf", "chrF")
EMBEDDING_SIMILARITY = _mean(
    "embedding_similarity", "Embedding similarity", percent=False, bounds=(-1.0, 1.0), needs=PREDICTED_VECTOR
)
DISTINCTNESS = _mean("distinctness", "Distinctness from others' answers")


def with_overlaps(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns rows of kind 'text' with rouge_1, rouge_l, chrf, distinctness and, where vectors are given,
    embedding_similarity; null in rows that are not scored and in those without an answer.

    ``embedding_similarity`` is the cosine of the columns ``target_vector`` and ``predicted_vector``; ``distinctness``
    is 1 minus the mean ROUGE-1 of an answer with what the same system gave other users for the same item, null where
    nobody else has the item.
    """  # noqa: D205
    pairs = list(zip(rows["gold"], rows["said"], rows["scored"] & rows["said"].is_not_null(), strict=True))
    cut = [(words(gold), words(written)) if ok else None for gold, written, ok in pairs]
    columns = {
        "rouge_1": [None if two is None else rouge_1(*two) for two in cut],
        "rouge_l": [None if two is None else rouge_l(*two) for two in cut],
        "chrf": [chrf(gold, written) if ok else None for gold, written, ok in pairs],
        "distinctness": _distinctness(rows, [None if two is None else two[1] for two in cut]),
    }
    if PREDICTED_VECTOR in rows.columns:
        columns["embedding_similarity"] = _cosines(rows)
    return rows.with_columns(pl.Series(name, values, pl.Float64) for name, values in columns.items())


def _distinctness(rows: pl.DataFrame, answers: list[list[str] | None]) -> list[float | None]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(rows.select("method", "base", "seed", "item_id").iter_rows()):
        if answers[row] is not None:
            groups[key].append(row)
    result: list[float | None] = [None] * len(rows)
    for members in groups.values():
        likeness = {member: 0.0 for member in members}
        for place, member in enumerate(members):
            for other in members[place + 1 :]:
                common = rouge_1(answers[member] or [], answers[other] or [])
                likeness[member] += common
                likeness[other] += common
        if len(members) > 1:
            for member in members:
                result[member] = 1 - likeness[member] / (len(members) - 1)
    return result


def _cosines(rows: pl.DataFrame) -> list[float | None]:
    result: list[float | None] = []
    for scored, *pair in rows.select("scored", TARGET_VECTOR, PREDICTED_VECTOR).iter_rows():
        if not scored or any(vector is None for vector in pair):
            result.append(None)
            continue
        target, predicted = (np.asarray(vector, dtype=np.float64) for vector in pair)
        size = float(np.linalg.norm(target) * np.linalg.norm(predicted))
        result.append(float(target @ predicted) / size if size else None)
    return result
