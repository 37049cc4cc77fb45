"""Methods on parts of the rows or of the users: per gold label, and per demographic group where a task tells."""

from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge.board import Board
from peftu.judge.compare import holm, sign_flip_test
from peftu.judge.shapes import Group
from peftu.metrics import KEYS
from peftu.outside import parse_json
from peftu.results import Score
from peftu.stats import UserMatrix, bootstrap, user_matrix
from peftu.system import System

FEWEST = 5  # users that a demographic group must have to be shown
_MOST_VALUES = 12
_NOT_PEOPLE = ("split",)


def by_label(board: Board, rows: pl.DataFrame, card: TaskCard) -> tuple[Group, ...]:
    """Returns, for each gold label, the share of a user's rows with it that are predicted to have it (recall).

    A score is the mean over the users who gave the label in a scored test row; the gain is over the first reference.
    """
    if not board.references or not card.answers.labelled:
        return ()
    scored = rows.filter("scored").select(*KEYS, "gold", "said")
    hit = pl.col("gold") == pl.col("said")
    if not card.answers.exclusive:
        scored = scored.explode("gold", empty_as_null=True).drop_nulls("gold")
        hit = pl.col("said").list.contains(pl.col("gold"))
    recalls = scored.group_by(*KEYS, "gold").agg(recall=hit.mean(), rows=pl.len())
    result: list[Group] = []
    for place, label in enumerate(card.labels):
        part = recalls.filter(pl.col("gold") == place).sort(KEYS)
        if len(part):
            result += _groups(board, user_matrix(part, "recall"), "label", label, part)
    return _corrected(result)


def by_people(board: Board, meta: pl.DataFrame) -> tuple[Group, ...]:
    """Returns the main metric for groups of users by what is known about them.

    Used are the fields of ``meta`` that have one value for each user throughout; numbers of more than twelve kinds are
    cut into thirds. Groups of fewer than five tested users are not shown.

    Args:
        board: the scores.
        meta: user_id and meta, a JSON object, of every judgement.
    """
    result: list[Group] = []
    if not board.references:
        return ()
    for field, values in user_fields(meta).items():
        groups: dict[str, list[int]] = defaultdict(list)
        for place, user in enumerate(board.matrix.users):
            if user in values:
                groups[values[user]].append(place)
        shown = {value: places for value, places in sorted(groups.items()) if len(places) >= FEWEST}
        if not 1 < len(shown) <= _MOST_VALUES:
            continue
        for value, places in shown.items():
            users = tuple(board.matrix.users[place] for place in places)
            part = UserMatrix(users, board.systems, board.matrix.values[places])
            counts = board.scores.filter(pl.col("user_id").is_in(users)).select(*KEYS, rows="n_scored")
            result += _groups(board, part, field, value, counts, main=True)
    return _corrected(result)


def user_fields(meta: pl.DataFrame) -> dict[str, dict[str, str]]:
    """Returns field -> user -> value, for fields that every user who has them has with one value throughout."""
    fields: dict[str, dict[str, Any]] = defaultdict(dict)
    several: set[str] = set()
    for user, text in meta.drop_nulls("meta").unique(["user_id", "meta"]).sort("user_id", "meta").iter_rows():
        for field, value in _described(text).items():
            if value is None or isinstance(value, list | dict):
                continue
            if fields[field].setdefault(user, value) != value:
                several.add(field)
    kept = {field: values for field, values in fields.items() if field not in several and field not in _NOT_PEOPLE}
    return {field: _words(values) for field, values in kept.items()}


def _described(text: str) -> dict[str, Any]:
    try:
        return dict(parse_json(text))
    except (ValueError, TypeError):
        raise PeftuError(
            f"meta {text[:40]!r} of a user is no JSON object — mend it where the table comes from"
        ) from None


def _words(values: dict[str, Any]) -> dict[str, str]:
    """Returns the values as words; many numbers are cut into thirds."""
    numbers = {user: float(v) for user, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if len(numbers) < len(values) or len(set(numbers.values())) <= _MOST_VALUES:
        return {user: str(value) for user, value in values.items()}
    low, high = np.quantile(list(numbers.values()), [1 / 3, 2 / 3])
    names = (f"up to {low:g}", f"{low:g} to {high:g}", f"above {high:g}")
    return {user: names[int(value > low) + int(value > high)] for user, value in numbers.items()}


def _corrected(groups: list[Group]) -> tuple[Group, ...]:
    """Returns groups whose p-values are corrected for all methods and values by which users or rows are grouped."""
    p_holm: dict[tuple[str, str, System], float | None] = {}
    for by in dict.fromkeys(group.by for group in groups):
        compared = [group for group in groups if group.by == by and group.system != group.against]
        for group, p in zip(compared, holm([group.p for group in compared]), strict=True):
            p_holm[by, group.value, group.system] = p
    return tuple(
        group.model_copy(update={"p_holm": p_holm.get((group.by, group.value, group.system))}) for group in groups
    )


def _groups(
    board: Board, matrix: UserMatrix, by: str, value: str, rows: pl.DataFrame, *, main: bool = False
) -> list[Group]:
    reference = board.references[0]
    if reference not in matrix.systems:
        return []
    sign = 1.0 if not main or board.metric.higher_is_better else -1.0
    bounds = board.metric.bounds if main else (0.0, 1.0)
    scores = bootstrap(matrix.values, resamples=board.resamples, bounds=bounds)
    gains = sign * (matrix.values - matrix.column(reference)[:, None])
    reach = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    gained, p_values = bootstrap(gains, resamples=board.resamples, bounds=reach), sign_flip_test(gains)
    numbers = rows.group_by("method", "base").agg(pl.sum("rows")).rows()
    counts = {System(method, base): number for method, base, number in numbers}
    return [
        Group(
            system=system,
            against=reference,
            by=by,
            value=value,
            users=gained[place].users,
            p=p_values[place],
            rows=int(counts.get(system, 0)),
            score=Score.of(scores[place]),
            gain=Score.of(gained[place]),
        )
        for place, system in enumerate(matrix.systems)
    ]
