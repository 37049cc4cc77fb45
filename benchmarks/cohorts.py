"""Training speed and memory against the size of a cohort: LoRA on two bases, each in its default region.

    python benchmarks/cohorts.py        # writes results/cohorts.json

Texts are made up and labels random: speed looks at no value. A user takes one step of 8 rows, validated before and
after on 2; more epochs are more of the same. A cohort is given the memory that so many users are reckoned to need. On
MiniLM the top layers are the user's on all positions and activations fill it; on SmolLM2 one token is, and module rows
and optimiser state do. Every measurement is a process of its own with one thread, forked after the texts were read,
the sizes in turn. Shares of the best are of processor time, which other work on the machine disturbs less.
``cohort_bytes`` is peak memory less what was held before and the finished modules.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftu import train as training
from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase, dtype_name, load_base
from peftu.base.prompt import Prompt
from peftu.config import TrainSpec
from peftu.data.problem import Text
from peftu.environment import current_environment
from peftu.methods.lora import Lora
from peftu.train import cohort_size, train, user_bytes
from peftu.train_rows import Examples, Unit

RESULT = Path(__file__).parent / "results" / "cohorts.json"
PROMPT = Prompt("Is this post hateful? Answer yes or no.", ("yes", "no"))
SIZES = {"all-minilm-l6-v2": (4, 8, 16, 32, 64), "smollm2-135m-instruct": (16, 32, 64, 128, 256)}
USERS, REPETITIONS, TEXTS, TRAIN, VAL = 32, 3, 16, 8, 2  # users at least: a whole cohort


def texts() -> list[Text]:
    """Returns posts of 5 to 40 words."""
    words = np.array(
        ["the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we"]
    )
    rng = np.random.default_rng(0)
    return [Text(" ".join(rng.choice(words, rng.integers(5, 41)))) for _ in range(TEXTS)]


def units(users: int) -> list[Unit]:
    """Returns users with random texts and labels."""
    rng = np.random.default_rng(1)

    def some(rows: int) -> Examples:
        target = np.eye(2, dtype=np.float32)[rng.integers(0, 2, rows)]
        return Examples(rng.integers(0, TEXTS, rows), target, np.ones(rows, dtype=np.float32))

    return [Unit(f"user {place}", some(TRAIN), some(VAL)) for place in range(users)]


def memory(field: str) -> int:
    """Returns what this process holds (VmRSS) or has held at most (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure_base(name: str) -> None:
    """Prints what training on a base takes, a line for each size of cohort."""
    torch.set_num_threads(1)  # before anything is reckoned: threads do not outlive a fork
    base = load_base(name)
    region = base.region(None)
    context = base.prefill(PROMPT, texts(), region)
    layout = Layout(Lora(), base.sites(region, 2))
    for size in SIZES[name]:
        child = multiprocessing.get_context("fork").Process(target=measure, args=(base, context, layout, size))
        child.start()
        child.join()
        assert child.exitcode == 0


def measure(base: FrozenBase, context: Context, layout: Layout, size: int) -> None:
    """Prints what training takes in cohorts of this size."""
    spec, load_before = TrainSpec(epochs=1), os.getloadavg()[0]
    everybody = units(max(USERS, size))
    budget = size * user_bytes(base, context, layout, spec)
    training.cohort_bytes = lambda _: budget
    assert cohort_size(base, context, layout, spec) == size
    train(base, context, layout, everybody[:1], spec, seed=0)  # warms up
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    train(base, context, layout, everybody, spec, seed=0)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    peak, users = memory("VmHWM"), len(everybody)
    found = {
        "base": base.name,
        "cohort": size,
        "users": users,
        "budget_bytes": budget,
        "steps_per_hour": 3600 * users / seconds,
        "steps_per_cpu_hour": 3600 * users / cpu_seconds,
        "peak_bytes": peak,
        "cohort_bytes": peak - before - users * layout.width * 4,
        "module_bytes": layout.width * 4,
        "region": str(context.region),
        "dtype": dtype_name(base.dtype),
        "load_before": round(load_before, 2),
    }
    print(json.dumps(found), flush=True)


def measured(name: str) -> list[dict[str, Any]]:
    """Returns what a process of its own measures on a base."""
    done = subprocess.run([sys.executable, __file__, "--base", name], stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the medians of a base's sizes, least first, each with its share of the best speed."""
    found = []
    for size in sorted({row["cohort"] for row in rows}):
        some = [row for row in rows if row["cohort"] == size]
        names = ("budget_bytes", "steps_per_hour", "steps_per_cpu_hour", "peak_bytes", "cohort_bytes")
        found.append({"cohort": size} | {name: statistics.median(row[name] for row in some) for name in names})
    best = max(row["steps_per_cpu_hour"] for row in found)
    return [row | {"of_the_best": round(row["steps_per_cpu_hour"] / best, 3)} for row in found]


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns medians, all repetitions and what they were made on."""
    return {
        "benchmark": "cohorts",
        "method": "lora",
        "medians": {name: medians([row for row in rows if row["base"] == name]) for name in SIZES},
        "repetitions": rows,
        "threads": 1,
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(medians: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the medians in Markdown, a row a size."""
    lines = ["| base | users at once | reckoned, MB | measured, MB | of the best speed |", "|---|---|---|---|---|"]
    for name, rows in medians.items():
        for row in rows:
            reckoned, held = (round(row[of] / 1e6) for of in ("budget_bytes", "cohort_bytes"))
            lines.append(f"| `{name}` | {row['cohort']} | {reckoned:,} | {held:,} | {row['of_the_best']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures everything, or one base in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=SIZES, help="only this base, in this process")
    arguments = parser.parse_args()
    if arguments.base:
        measure_base(arguments.base)
        return
    rows: list[dict[str, Any]] = []
    for _ in range(REPETITIONS):
        for name in SIZES:
            rows += measured(name)
        RESULT.write_text(json.dumps(result(rows), indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result(rows)["medians"], indent=1))


if __name__ == "__main__":
    main()
