"""What settings and new methods are chosen by: validation rows of seeds that no reported number uses.

    python benchmarks/choices.py --raw DIR --task tweeteval --methods 'lora[offset=mixed-head]' --base all-minilm-l6-v2

A seed's test rows are dropped. Its validation rows are scored, and of its training rows a sixth is held out in their
stead: of each user's rows or, where texts are new, of the texts. So nothing is scored that training was stopped by.
Results are kept by task, regime and method in results/choices.json, paired with `mixed-head` on the same base.
"""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from peftu.cells.fits import FitResult, Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import Problem
from peftu.data.shards import with_rows
from peftu.data.splits import make_problem, make_split
from peftu.data.task import TaskCard
from peftu.files import write_atomic
from peftu.lab.progress import Silent
from peftu.metrics import Metric, metrics
from peftu.plan import plan
from peftu.stats import differences, interval

RESULT = Path(__file__).parent / "results" / "choices.json"
SEEDS = (10, 11, 12)
HELD_OUT = 6  # one of so many training rows
RIVAL = "mixed-head"


def nested(problem: Problem, seed: int, new_texts: bool) -> Problem:
    """Returns a problem without its test rows: its validation rows are scored, and some training rows validate."""
    kept = np.flatnonzero(problem.part < 2)
    problem = with_rows(problem, kept)
    rng = np.random.Generator(np.random.PCG64(seed))
    if new_texts:
        held_out = (rng.permutation(len(problem.texts)) % HELD_OUT == 0)[problem.text]
    else:
        order = np.lexsort((rng.permutation(len(problem.user)), problem.user))
        held_out = np.empty(len(order), dtype=bool)
        held_out[order] = np.arange(len(order)) % HELD_OUT == 0
    part = np.where(problem.part == 1, 2, np.where(held_out, 1, 0))
    return replace(problem, part=part.astype(problem.part.dtype))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns each method's scores of users and log-likelihood of rows, over all seeds."""
    folder = arguments.raw / arguments.task.partition("-")[0] if arguments.raw else None
    table = load_task(arguments.task, folder if folder and folder.exists() else None)
    split = SplitSpec(regime=arguments.regime, users=arguments.users, max_items=arguments.items)
    asked = [f"{RIVAL}@{arguments.base}", *arguments.methods]
    spec = RunSpec(task=arguments.task, methods=tuple(map(MethodSpec.parse, asked)), base=arguments.base)
    gathered: dict[str, list[pl.DataFrame]] = {name: [] for name in asked}
    metric = metrics.get(table.card.main_metric)
    for seed in arguments.seeds:
        whole = make_problem(table, table.card, make_split(table, split, seed))
        problem = nested(whole, seed, arguments.regime == "unseen-text")
        fits = Fits(table.card, {seed: problem}, spec.max_tokens, Silent())
        for name, job in zip(asked, plan(spec), strict=True):
            result = fits.run(job, seed)
            gathered[name].append(scored(problem, result, table.card, metric.name))
            print(
                seed, name, gathered[name][-1].select(pl.col("metric", "likelihood").mean().round(4)).row(0), flush=True
            )
    return {name: together(gathered[name], gathered[asked[0]], metric) for name in asked}


def scored(problem: Problem, result: FitResult, card: TaskCard, metric: str) -> pl.DataFrame:
    """Returns user_id, the main metric and the mean log-likelihood of each user's scored rows."""
    rows = result.rows
    tested = problem.part[rows] == 2
    scores = result.fitted.written(result.scores)[tested]
    gold, users = problem.target[rows[tested]], problem.user[rows[tested]]
    chosen = result.fitted.decide(scores)
    if card.answers.exclusive:
        surprise = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        likelihood = (scores * gold).sum(1) - surprise
    else:
        probability = np.clip(np.exp(scores.astype(np.float64)), 1e-7, 1 - 1e-7)
        likelihood = np.where(gold > 0, np.log(probability), np.log1p(-probability)).mean(1)
    if metric == "mae":
        value = np.abs(chosen.argmax(1) - gold.argmax(1))
    elif metric == "jaccard":
        value = (chosen & (gold > 0)).sum(1) / np.maximum(1, (chosen | (gold > 0)).sum(1))
    else:
        value = (chosen == (gold > 0)).all(1)
    keys = [problem.users[user] for user in users]
    columns = {"user_id": keys, "metric": value.astype(np.float64), "likelihood": likelihood.astype(np.float64)}
    return pl.DataFrame(columns).group_by("user_id").mean()


def together(own: list[pl.DataFrame], rival: list[pl.DataFrame], metric: Metric) -> dict[str, Any]:
    """Returns means over seeds and users, and the paired gain over the rival with its interval over users."""
    mine, theirs = (pl.concat(seeds).group_by("user_id").mean().sort("user_id") for seeds in (own, rival))
    line: dict[str, Any] = {"users": len(mine)}
    for name, better in (("metric", metric.higher_is_better), ("likelihood", True)):
        gain = interval(differences(mine[name].to_numpy(), theirs[name].to_numpy(), higher_is_better=better))
        line[name] = {"mean": mine[name].mean(), "gain": [gain.mean, gain.low, gain.high]}
    return line


def main() -> None:
    """Measures methods, and keeps them beside those that were measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--task", default="tweeteval")
    parser.add_argument("--regime", default="unseen-text", choices=["within-user", "unseen-text"])
    parser.add_argument("--base", default="all-minilm-l6-v2")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int)
    arguments = parser.parse_args()
    assert min(arguments.seeds) >= 10, "seeds below 10 are for results"
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    where = f"{arguments.task} {arguments.regime} {arguments.base} users={arguments.users} items={arguments.items}"
    for name, line in measure(arguments).items():
        date = datetime.now(UTC).date().isoformat()
        results.setdefault(where, {})[name] = {**line, "seeds": arguments.seeds, "date": date}
        print(f"{where} {name}: {json.dumps(line)}")
    write_atomic(RESULT, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
