"""Seconds and memory to score a million predictions of 10,000 users with 1,000 bootstrap draws.

    python benchmarks/scoring.py [--users 10000] [--rows 1000000] [--methods 4] [--draws 1000] [--out FILE]

Invented predictions with probabilities, three labels, every text judged by about twenty users. Timed are the three
stages of ``peftu score`` after reading: scores per user, leaderboard, and the whole judgement.
"""

import argparse
import json
import os
import resource
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from peftu.data.task import TaskCard
from peftu.environment import current_environment
from peftu.judge import Evidence, judge
from peftu.metrics import PREDICTIONS, user_scores
from peftu.results import summarise

LABELS = ("calm", "cross", "glad")
CARD = TaskCard(
    name="invented", version="1", title="Invented", description="d", user="an invented person", kind="single",
    labels=LABELS, instruction="?", main_metric="accuracy", language="none", licence="CC0-1.0", citation="none",
    homepage="none", files=(),
)  # fmt: skip


def invented(users: int, rows: int, methods: int) -> pl.DataFrame:
    """Returns predictions of methods that are right more and more often; the first is called user-majority."""
    rng = np.random.default_rng(0)
    each = rows // methods
    user = np.arange(each) % users
    # A user's n-th item is one of those of their neighbourhood of twenty users.
    item = (np.arange(each) // users) + 1000 * (user // 20)
    gold = rng.integers(0, 3, each)
    names = np.array(LABELS)
    frames = []
    for method in range(methods):
        chance = np.log(rng.dirichlet(np.ones(3), each).astype(np.float32))
        said = np.where(rng.random(each) < 0.6 + 0.02 * method, gold, (gold + 1) % 3)
        frames.append(
            pl.DataFrame(
                {
                    "method": pl.repeat("user-majority" if method == 0 else f"m{method}", each, eager=True),
                    "base": pl.repeat(None, each, dtype=pl.String, eager=True),
                    "seed": pl.repeat(0, each, dtype=pl.Int64, eager=True),
                    "user_id": pl.Series(user).cast(pl.String),
                    "item_id": pl.Series(item).cast(pl.String),
                    "part": pl.repeat("test", each, eager=True),
                    "target": pl.Series(names[gold]).reshape((each, 1)).arr.to_list(),
                    "predicted": pl.Series(names[said]).reshape((each, 1)).arr.to_list(),
                    "scores": pl.Series(chance).arr.to_list(),
                }
            ).select(*PREDICTIONS)
        )
    return pl.concat(frames)


def main() -> None:
    """Measures and writes one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--methods", type=int, default=4)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    frame = invented(asked.users, asked.rows, asked.methods)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds: dict[str, float] = {}
    start, worked = time.perf_counter(), time.process_time()
    scores = user_scores(frame, CARD)
    seconds["user_scores"] = time.perf_counter() - start
    results = summarise(scores, CARD)
    seconds["summarise"] = time.perf_counter() - start - seconds["user_scores"]
    found = judge(Evidence(frame, CARD, scores, results, resamples=asked.draws))
    seconds["total"] = time.perf_counter() - start
    seconds["judge"] = seconds["total"] - seconds["user_scores"] - seconds["summarise"]
    report: dict[str, Any] = {
        "users": found.users,
        "rows": len(frame),
        "methods": asked.methods,
        "draws": asked.draws,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "cpu_seconds": round(time.process_time() - worked, 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_bytes_before": before,
        "load_average": round(os.getloadavg()[0], 1),  # on a busy machine the CPU seconds tell more than the clock
        "date": datetime.now(UTC).date().isoformat(),
        "environment": current_environment().model_dump(mode="json"),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
