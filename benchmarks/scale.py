"""What more users and more workers cost: one run of `lora@all-minilm-l6-v2`, end to end, and judging by itself.

    python benchmarks/scale.py --stages users,workers,judging,added    # writes results/scale.json

Tables are made up: 30 items a user, drawn from a pool of short texts, two labels; speed and memory do not look at
values. Every measurement is a process of its own with a cache of its own; peak memory is of that process (workers have
their own). What was measured before of another stage stays in the JSON.
"""

import argparse
import json
import os
import random
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
WORDS = ("the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we", "can")


def table(users: int) -> Any:
    """Returns a made-up table: each user likes texts by a word of their own, with noise."""
    import polars as pl

    import peftu

    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 6))) + f" {place}" for place in range(TEXTS)]
    rows = []
    for user in range(users):
        liked = rng.choice(WORDS)
        for text in rng.sample(texts, ITEMS):
            rows.append((f"user {user:06}", text, "yes" if (liked in text) ^ (rng.random() < 0.1) else "no"))
    frame = pl.DataFrame(rows, ["user", "text", "label"], orient="row")
    return peftu.from_frame(frame, user="user", text="text", label="label", name="made-up")


def run_once(
    folder: Path, users: int, methods: str = LORA, executor: str = "local", workers: int = 1
) -> dict[str, Any]:
    """Returns what one run takes, end to end."""
    import peftu

    made = table(users)
    start = time.perf_counter()
    run = peftu.compare(
        made, methods, executor=executor, workers=workers, epochs=EPOCHS, baselines=False, out=folder / "run",
        cells=folder / "cells", if_exists="overwrite",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
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
}


def main() -> None:
    """Measures the stages asked for, or one call in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--call", choices=CALLS)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
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
