"""Runs whose truth is known: users with a chance of being right under each method, judged by the real judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.answers import Kind
from peftu.judge import Evidence, judge
from peftu.metrics import PREDICTIONS, user_scores
from peftu.report.example import CARD, example_run
from peftu.report.view import RunView
from peftu.results import Hashes, MethodCost, Scope, TaskSummary, summarise
from peftu.system import System

_SCOPES: dict[str, Scope] = {"global": "global", "zero-shot": "none", "global-majority": "global"}
_METRICS: dict[Kind, str] = {"single": "accuracy", "ordinal": "mae", "multi": "accuracy", "text": "perplexity"}
_LABELS: dict[Kind, tuple[str, ...]] = {"ordinal": ("0", "1", "2", "3"), "text": ()}
_RECORD = example_run(12, seeds=1)[0]


@dataclass(frozen=True)
class World:
    """What a run is drawn from.

    Attributes:
        skill: method -> chance of being right; of free text, log-likelihood of a token.
        users, items, seeds: how many of each; the items are a user's test items of one seed.
        spread: standard deviation over users of a method's own skill.
        alike: whether all methods give the same answers.
        kind, regime: of the task and its split.
        few: items of the first users, where these have fewer.
        unscored: share of rows without an answer.
        votes: whether all users judge the same texts alike, so that others' majority is a near-perfect ceiling.
        notes: method -> notes of the result.
    """

    skill: Mapping[str, float]
    users: int = 40
    items: int = 20
    seeds: int = 2
    spread: float = 0.03
    alike: bool = False
    kind: Kind = "single"
    regime: str = "within-user"
    few: Sequence[int] = ()
    unscored: float = 0.0
    votes: float = 0.0
    notes: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def simulated(world: World) -> RunView:
    """Returns the run, judged."""
    labels = _LABELS.get(world.kind, ("calm", "cross", "glad"))
    card = CARD.model_copy(update={"kind": world.kind, "labels": labels, "main_metric": _METRICS[world.kind]})
    ease = np.random.default_rng(1).normal(0, 0.05, world.users)
    frames = []
    for number, (method, skill) in enumerate(world.skill.items()):
        rng = np.random.default_rng((2, 0 if world.alike else number))
        own = skill + ease + rng.normal(0, world.spread, world.users)
        frames += [_predicted(world, labels, method, seed, own, rng) for seed in range(world.seeds)]
    predictions = pl.concat(frames)
    scores = user_scores(predictions, card)
    cost = MethodCost(seconds_per_user=2.0, bytes_per_user=1000)
    results = tuple(
        result.model_copy(
            update={
                "scope": _SCOPES.get(result.name, "user"),
                "trained": result.name not in ("user-majority", "zero-shot"),
                "notes": dict(world.notes.get(result.method, {})),
            }
        )
        for result in summarise(scores, card, {System(method): cost for method in world.skill})
    )
    splits = {str(seed): "sha256:0" for seed in range(world.seeds)}
    record = _RECORD.model_copy(
        update={
            "methods": results, "users": world.users, "regime": world.regime, "task": TaskSummary.of(card),
            "hashes": Hashes(data=_RECORD.hashes.data, splits=splits), "leakage": {}, "statistics": {},
        }
    )  # fmt: skip
    return RunView(record, scores, judge(Evidence(predictions, card, scores, results)))


def _predicted(
    world: World, labels: tuple[str, ...], method: str, seed: int, own: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> pl.DataFrame:  # fmt: skip
    """Returns one method's answers to the test items of all users at one seed."""
    users, items = world.users, world.items
    rows = users * items
    target, said = _labels(world, labels, seed, own, rng) if labels else (["words"] * rows, ["words"] * rows)
    likely = 10 * (np.repeat(own, items) + rng.normal(0, 0.3, rows))
    silent = rng.random(rows) < world.unscored
    scores = pl.concat_list("likely", pl.lit(10.0)) if world.kind == "text" else pl.lit(None)
    made = pl.DataFrame(
        {
            "user_id": np.repeat([f"key-{user:03d}" for user in range(users)], items),
            "item": np.tile(np.arange(items), users), "target": target, "said": said, "likely": likely,
            "silent": silent, "limit": np.repeat([*world.few, *[items] * (users - len(world.few))], items),
        }
    )  # fmt: skip
    made = made.filter(pl.col("item") < pl.col("limit")).with_columns(
        method=pl.lit(method), base=pl.lit(None), seed=pl.lit(seed), part=pl.lit("test"),
        item_id=pl.format("{}-{}", pl.lit(seed), "item"), target=pl.col("target").str.split("|"),
        predicted=pl.when(~pl.col("silent")).then(pl.col("said").str.split("|")),
        scores=pl.when(~pl.col("silent")).then(scores),
    )  # fmt: skip
    return made.select(*PREDICTIONS).cast(PREDICTIONS)  # type: ignore[arg-type]


def _labels(
    world: World, labels: tuple[str, ...], seed: int, own: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Returns targets and answers; a wrong answer is the next label, of several labels a set without the right ones."""
    drawn = np.random.default_rng((3, seed))
    gold = drawn.integers(0, len(labels), (world.users, world.items))
    gold = np.where(drawn.random(gold.shape) < world.votes, gold[0], gold).ravel()
    right = rng.random(len(gold)) < np.clip(np.repeat(own, world.items), 0, 1)
    sets, others = np.array(labels), np.roll(labels, -1)
    if world.kind == "multi":
        sets, others = np.array([f"{one}|{other}" for one, other in zip(sets, others, strict=True)]), np.roll(sets, -2)
    return sets[gold].tolist(), np.where(right, sets[gold], others[gold]).tolist()
