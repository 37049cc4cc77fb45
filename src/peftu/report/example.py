"""Invented people and invented methods, to look at a report without data and without a model."""

import shlex
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from peftu.config import MethodSpec, RunSpec
from peftu.data.task import TaskCard
from peftu.judge import Evidence, judge
from peftu.metrics import PREDICTIONS, user_scores
from peftu.report.view import RunView
from peftu.results import CostTotals, Hashes, MethodCost, MethodResult, RunRecord, Scope, TaskSummary, summarise
from peftu.stats import Doubles
from peftu.system import System

CARD = TaskCard(
    name="invented",
    version="1",
    title="Invented judgements",
    description="Drawn by a random number generator.",
    user="an invented person",
    kind="single",
    labels=("calm", "cross", "glad"),
    instruction="How does the writer feel?",
    main_metric="accuracy",
    language="none",
    licence="CC0-1.0",
    citation="Nobody (no year). Invented.",
    homepage="none",
    files=(),
    content_warning="None of this was said by anybody.",
)


class _Invented(NamedTuple):
    """How an invented method behaves: chance of being right, what more training rows add, and its cost."""

    name: str
    base: str | None
    scope: Scope
    skill: float
    growth: float
    cost: MethodCost


_METHODS = (
    _Invented("user-majority", None, "user", 0.62, 0.0, MethodCost(parameters_per_user=1, bytes_per_user=2)),
    _Invented("global", "minilm", "global", 0.65, 0.0, MethodCost(parameters_per_user=0, bytes_per_user=0)),
    _Invented("zero-shot", "smollm2", "none", 0.48, 0.0, MethodCost(parameters_per_user=0, bytes_per_user=0)),
    _Invented("mixed-head", "minilm", "both", 0.68, 0.14, MethodCost(parameters_per_user=1155, bytes_per_user=2310)),
    _Invented("lora[r=4]", "smollm2", "user", 0.57, 0.2, MethodCost(parameters_per_user=69120, bytes_per_user=138240)),
    _Invented("ia3", "smollm2", "user", 0.63, 0.0, MethodCost(parameters_per_user=5760, bytes_per_user=11520)),
)  # fmt: skip
_SECONDS = (0.001, 0.02, 0.4, 0.09, 8.5, 6.1)


def example_run(users: int = 20, seeds: int = 3, test_rows: int = 20) -> tuple[RunRecord, pl.DataFrame]:
    """Returns a finished record of invented results and its user scores.

    >>> record, scores = example_run(users=12, seeds=1)
    >>> record.users, len(record.methods)
    (12, 6)
    """
    record, scores, _ = _invented(users, seeds, test_rows)
    return record, scores


def example_view(users: int = 20, seeds: int = 3, test_rows: int = 20) -> RunView:
    """Returns a finished run of invented results, judged."""
    record, scores, predictions = _invented(users, seeds, test_rows)
    return RunView(record, scores, judge(Evidence(predictions, CARD, scores, record.methods)))


def example_predictions(users: int = 20, seeds: int = 3, test_rows: int = 20) -> pl.DataFrame:
    """Returns invented predictions of test rows."""
    return _invented(users, seeds, test_rows)[2]


def _invented(users: int, seeds: int, test_rows: int) -> tuple[RunRecord, pl.DataFrame, pl.DataFrame]:
    """Returns record, user scores and predictions."""
    rng = np.random.default_rng(7)
    train = rng.integers(8, 200, users)
    ease = rng.normal(0, 0.1, users)
    talent = {method.name: rng.normal(0, 0.09, users) for method in _METHODS}
    talent["user-majority"] *= 0
    parts = []
    for method in _METHODS:
        right = method.skill + ease + talent[method.name] + method.growth * (np.log(train / 80) / np.log(80))
        for seed in range(seeds):
            parts.append(_predict(method, seed, np.clip(right, 0.05, 0.97), test_rows, rng))
    n_train = pl.DataFrame(
        {
            "seed": np.repeat(np.arange(seeds), users),
            "user_id": [f"key-{user}" for user in range(users)] * seeds,
            "n_train": np.tile(train, seeds),
        }
    )
    predictions = pl.concat(parts)
    scores = user_scores(predictions, CARD, n_train)
    costs = {
        System(method.name, method.base): method.cost.model_copy(
            update={
                "seconds_per_user": seconds, "ms_per_answer": 20 * seconds, "peak_rss_bytes": int(4e8 + 1e8 * seconds),
            }
        )
        for method, seconds in zip(_METHODS, _SECONDS, strict=True)
    }  # fmt: skip
    results = summarise(scores, CARD, costs)
    scopes = {method.name: method.scope for method in _METHODS}
    untrained = ("user-majority", "zero-shot")
    tagged = [r.model_copy(update={"scope": scopes[r.method], "trained": r.method not in untrained}) for r in results]
    return _record(users, seeds, tagged), scores, predictions


def _predict(method: _Invented, seed: int, right: Doubles, rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Returns predictions that are right with each user's chance; everybody judges the same items."""
    users, labels = len(right), np.array(CARD.labels)
    gold = _judgements(users, rows, seed)
    wrong = rng.random(users * rows) >= np.repeat(right, rows)
    answers = (gold + wrong * rng.integers(1, 3, users * rows)) % 3
    sure = np.clip(np.repeat(right, rows) + rng.normal(0.05, 0.1, users * rows), 0.35, 0.99)
    chances = np.where(answers[:, None] == np.arange(3), sure[:, None], (1 - sure[:, None]) / 2)
    return pl.DataFrame(
        {
            "method": method.name,
            "base": pl.Series([method.base] * users * rows, dtype=pl.String),
            "seed": seed,
            "user_id": np.repeat([f"key-{user}" for user in range(users)], rows),
            "item_id": [f"{seed}-{item}" for item in range(rows)] * users,
            "part": "test",
            "target": labels[gold][:, None].tolist(),
            "predicted": labels[answers][:, None].tolist(),
            "scores": np.log(chances).tolist(),
        },
        schema_overrides={name: PREDICTIONS[name] for name in ("base", "seed", "scores")},
    ).select(*PREDICTIONS)


def _judgements(users: int, rows: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns [users * rows] places of labels: most users follow the item, some follow themselves."""
    rng = np.random.default_rng(seed)
    common = np.tile(rng.choice(3, rows, p=(0.5, 0.2, 0.3)), users)
    apart = rng.random(users * rows) < np.repeat(np.linspace(0.05, 0.6, users), rows)
    return np.where(apart, rng.integers(0, 3, users * rows), common)


def _record(users: int, seeds: int, results: list[MethodResult]) -> RunRecord:
    wanted = RunSpec(
        task=CARD.name,
        methods=tuple(
            MethodSpec.parse(f"{method.name}@{method.base}" if method.base else method.name) for method in _METHODS
        ),
        seeds=tuple(range(seeds)),
    )
    spec = wanted.model_dump(mode="json")
    methods = ",".join(map(str, wanted.methods))
    return RunRecord(
        run=wanted.run_id,
        created=datetime(2025, 1, 31, 12, tzinfo=UTC),
        command=shlex.join(["peftu", "compare", CARD.name, "--methods", methods, "--seeds", str(seeds)]),
        spec_passed={key: spec[key] for key in ("task", "methods", "seeds")},
        spec=spec,
        task=TaskSummary.of(CARD),
        regime=wanted.split.regime,
        hashes=Hashes(
            data="sha256:" + "0" * 64,
            splits={str(seed): "sha256:" + str(seed % 10) * 64 for seed in range(seeds)},
            bases={"minilm": "sha256:" + "a" * 64, "smollm2": "sha256:" + "b" * 64},
        ),
        users=users,
        excluded_users={"fewer than 10 items": users // 5, "test part would be empty": 1},
        truncated_texts={"smollm2": 3},
        statistics={
            "users": users,
            "texts": 20 * seeds,
            "annotations": 20 * seeds * users,
            "examples_per_user": 20.0 * seeds,
            "users_per_text": float(users),
            "label_shares": {"calm": 0.45, "cross": 0.24, "glad": 0.31},
            "alpha": 0.21,
            "alpha_metric": "nominal",
        },
        leakage={
            str(seed): {"test_rows": users * 20, "text_seen_same_user": 0.0, "text_seen_other_users": 0.94 + seed / 100}
            for seed in range(seeds)
        },
        methods=tuple(results),
        cost=CostTotals(seconds=sum(_SECONDS) * users * seeds, peak_rss_bytes=1_250_000_000, bytes=152_072 * users),
    )
