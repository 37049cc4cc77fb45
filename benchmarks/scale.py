"""What more users and more workers cost: one run of `lora@all-minilm-l6-v2`, end to end, and judging by itself.

    python benchmarks/scale.py [--stages users,workers,judging,added,costs]    # writes results/scale.json
    python benchmarks/scale.py --table                                         # what docs/scale.md shows

Tables are made up: 30 items a user, drawn from a pool of short texts, two labels; speed and memory do not look at
values. Every measurement is a process of its own with a cache of its own; peak memory is of that process (workers have
their own). What was measured before of another stage stays in the JSON.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "scale.json"
BASE = "all-minilm-l6-v2"
LORA, HABIT = f"lora@{BASE}", "user-majority"
ITEMS, EPOCHS, TEXTS = 30, 1, 60_000
REPEATS = 3
MILLION = 1_000_000
WORDS = ("the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we", "can")


def table(users: int, items: int = ITEMS) -> Any:
    """Returns a made-up table: each user likes texts by a word of their own, with noise."""
    import polars as pl

    import peftu

    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 6))) + f" {place}" for place in range(TEXTS)]
    rows = []
    for user in range(users):
        liked = rng.choice(WORDS)
        for text in rng.sample(texts, items):
            rows.append((f"user {user:06}", text, "yes" if (liked in text) ^ (rng.random() < 0.1) else "no"))
    frame = pl.DataFrame(rows, ["user", "text", "label"], orient="row")
    return peftu.from_frame(frame, user="user", text="text", label="label", name="made-up")


def terms(made: Any, epochs: int) -> dict[str, int]:
    """Returns what a run's time goes by: texts read, each once a shard, and rows trained, in whole batches."""
    from peftu.config import SplitSpec, TrainSpec
    from peftu.data.shards import shards
    from peftu.data.splits import make_split

    split, frame, batch = make_split(made, SplitSpec(), 0), made.frame, TrainSpec().batch
    rows = split.counts()["train"] // len(split.users)
    reads = sum(frame.filter(frame["user_id"].is_in(users))["text"].n_unique() for users in shards(split.users))
    return {"reads": reads, "rows_trained": -(-rows // batch) * batch * epochs * len(split.users)}


def run_once(
    folder: Path,
    users: int,
    methods: str = LORA,
    executor: str = "local",
    workers: int = 1,
    items: int = ITEMS,
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Returns what one run takes, end to end."""
    import peftu

    made = table(users, items)
    start = time.perf_counter()
    run = peftu.compare(
        made, methods, executor=executor, workers=workers, epochs=epochs, baselines=False, out=folder / "run",
        cells=folder / "cells", if_exists="overwrite",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        **terms(made, epochs),
        "users": users,
        "executor": executor,
        "workers": workers,
        "seconds": seconds,
        "users_per_hour": 3600 * users / seconds,
        "peak_bytes": peak_bytes(),
        "cells": len(run.record.cells),
        "cells_bytes": size(folder / "cells"),
        "run_bytes": size(folder / "run"),
        "report_bytes": (folder / "run" / "report.html").stat().st_size,
        "filling_seconds": run.record.cost.seconds,
    }


def judge_once(folder: Path) -> dict[str, Any]:
    """Returns what judging and drawing a run of 10,000 users takes, nothing being fitted but two majorities."""
    import peftu

    made = table(10_000)
    methods = f"{HABIT},global-majority,mixed-head[features=tfidf]"
    peftu.compare(made, methods, baselines=False, out=folder / "first", cells=folder / "cells")
    start = time.perf_counter()
    run = peftu.compare(made, methods, baselines=False, out=folder / "again", cells=folder / "cells")
    return {
        "users": 10_000,
        "methods": len(run.record.methods),
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak_bytes(),
        "report_bytes": (folder / "again" / "report.html").stat().st_size,
    }


def added_once(folder: Path) -> dict[str, Any]:
    """Returns what a method costs alone, and added to a finished comparison."""
    methods = (HABIT, f"bitfit@{BASE}", LORA)
    first = run_once(folder, 200, ",".join(methods[:2]))
    added = run_once(folder, 200, ",".join(methods))
    alone = run_once(folder / "alone", 200, f"{HABIT},{LORA}")
    return {"first_s": first["seconds"], "added_s": added["seconds"], "alone_s": alone["seconds"]}


def peak_bytes() -> int:
    """Returns the most memory this process held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def size(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(call: str, **arguments: Any) -> dict[str, Any]:
    """Returns what a call measures in a process of its own, with a cache of its own that holds the bases alone."""
    from peftu.data.sources import cache_dir

    with tempfile.TemporaryDirectory() as home:
        cache = Path(home) / "cache"
        cache.mkdir()
        for name in ("bases", "fingerprints"):
            (cache / name).symlink_to(cache_dir() / name)
        load = os.getloadavg()[0]
        command = [sys.executable, __file__, "--call", call, "--arguments", json.dumps(arguments), "--folder", home]
        environment = {**os.environ, "PEFTU_CACHE": str(cache)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        return {**json.loads(done.stdout.splitlines()[-1]), "load_before": round(load, 2)}


CALLS = {"run": run_once, "judge": judge_once, "added": added_once}
STAGES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "users": lambda: [measured("run", users=users) for users in (1000, 10_000)],
    "workers": lambda: [
        measured("run", users=1000, executor=executor, workers=workers)
        for _ in range(REPEATS)
        for executor, workers in (("local", 1), ("local", 2), ("ray", 2))
    ],
    "judging": lambda: [measured("judge") for _ in range(REPEATS)],
    "added": lambda: [measured("added") for _ in range(REPEATS)],
    "costs": lambda: [
        measured("run", users=users, items=items, epochs=epochs)
        for users, items, epochs in ((100, 10, 1), (100, 30, 1), (100, 10, 4), (100, 30, 4), (300, 10, 1), (300, 30, 1))
    ],
}
TERMS = ("start", "reads", "rows_trained", "users")  # of the cost model, seconds each


def cost_model(result: dict[str, Any]) -> dict[str, float]:
    """Returns seconds for the start, a text read, a row trained and a user: non-negative least squares of 'costs'."""
    import numpy as np
    from scipy.optimize import nnls

    runs = result["costs"]["measured"]
    terms = np.array([[1.0, *(run[term] for term in TERMS[1:])] for run in runs])
    seconds = np.array([run["seconds"] for run in runs])
    fitted, _ = nnls(terms / seconds[:, None], np.ones(len(runs)))  # relative errors count
    return dict(zip(TERMS, map(float, fitted), strict=True))


def predicted(model: dict[str, float], run: dict[str, float]) -> float:
    """Returns the seconds that a run should take."""
    return model["start"] + sum(model[term] * run[term] for term in TERMS[1:])


def page(result: dict[str, Any]) -> str:
    """Returns what docs/scale.md shows of a result, in Markdown: the stages that it has."""
    parts = {
        "users": by_users,
        "workers": by_workers,
        "judging": judging_took,
        "added": adding_took,
        "costs": costs_say,
    }
    return "\n".join(line for stage, part in parts.items() if stage in result for line in part(result))


def by_users(result: dict[str, Any]) -> list[str]:
    """Returns a table of runs of one process."""
    lines = [
        "| users | seconds | users an hour | peak memory, GB | cells, MB | report, KB |",
        "|---|---|---|---|---|---|",
    ]
    for run in result["users"]["measured"]:
        lines.append(
            f"| {run['users']:,} | {run['seconds']:,.0f} | {run['users_per_hour']:,.0f} | "
            f"{run['peak_bytes'] / 1e9:.2f} | {run['cells_bytes'] / 1e6:,.0f} | {run['report_bytes'] / 1e3:,.0f} |"
        )
    fewest, *_, most = result["users"]["measured"]
    times, memory = most["users"] / fewest["users"], most["peak_bytes"] / fewest["peak_bytes"]
    return [*lines, "", f"* {times:.0f} times the users took {memory:.2f} times the memory."]


def by_workers(result: dict[str, Any]) -> list[str]:
    """Returns a table of ways to fill the same cells."""
    ways: dict[tuple[str, int], list[float]] = {}
    for run in result["workers"]["measured"]:
        ways.setdefault((run["executor"], run["workers"]), []).append(run["seconds"])
    alone = statistics.median(ways["local", 1])
    lines = ["| executor | workers | seconds, each repetition | times one process |", "|---|---|---|---|"]
    for (executor, workers), seconds in ways.items():
        every = ", ".join(f"{spent:.0f}" for spent in seconds)
        lines.append(f"| {executor} | {workers} | {every} | {alone / statistics.median(seconds):.2f} |")
    return ["", *lines, ""]


def judging_took(result: dict[str, Any]) -> list[str]:
    """Returns what judging alone takes."""
    runs = result["judging"]["measured"]
    seconds = [run["seconds"] for run in runs]
    return [
        f"* Judging and drawing {runs[0]['users']:,} users under {runs[0]['methods']} methods that were there already: "
        f"{statistics.median(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f}), a report of "
        f"{runs[0]['report_bytes'] / 1e6:.2f} MB, {runs[0]['peak_bytes'] / 1e9:.2f} GB at most."
    ]


def adding_took(result: dict[str, Any]) -> list[str]:
    """Returns what a method costs beside others that are there."""
    shares = [run["added_s"] / run["alone_s"] for run in result["added"]["measured"]]
    return [
        "* A method added to a finished comparison of 200 users, over a run of it alone: "
        f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})."
    ]


def costs_say(result: dict[str, Any]) -> list[str]:
    """Returns the fitted cost model, what it says of a run that it was not fitted to, and of a million users."""
    model, largest = cost_model(result), result["users"]["measured"][-1]
    share = predicted(model, largest) / largest["seconds"]
    hours = predicted(model, scaled(largest, MILLION)) / 3600
    stored = largest["cells_bytes"] / largest["users"] * MILLION
    return [
        f"* Cost model, seconds: {model['start']:.1f} + {model['reads'] * 1e3:.2f} ms a text and shard + "
        f"{model['rows_trained'] * 1e3:.2f} ms a row trained + {model['users'] * 1e3:.1f} ms a user. Of the run with "
        f"{largest['users']:,} users, which it was not fitted to, it gives {share:.0%}.",
        f"* Projection, not measured: a million such users, {hours:,.0f} core hours of this machine "
        f"({hours / 64:,.1f} hours on 64 such cores, if they scale as 2 do here) and {stored / 1e9:,.0f} GB of cells.",
    ]


def scaled(run: dict[str, float], users: int) -> dict[str, float]:
    """Returns the terms of a run with so many users, each as in this one."""
    return {term: run[term] * users / run["users"] for term in TERMS[1:]}


def main() -> None:
    """Measures the stages asked for, or one call in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--call", choices=CALLS)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.table:
        print(page(json.loads(RESULT.read_text())))
        return
    if options.call:
        print(json.dumps(CALLS[options.call](options.folder, **options.arguments)))
        return
    from peftu.environment import current_environment

    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"benchmark": "scale"}
    for stage in options.stages.split(","):
        result[stage] = {
            "measured": STAGES[stage](),
            "environment": current_environment().model_dump(mode="json"),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
