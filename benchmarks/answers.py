"""Answers of a kept method: 10,000 pairs of 1,000 users at once, and one text of one user out of 1,000.

    python benchmarks/answers.py        # writes results/answers.json

Modules are random LoRA rows (speed does not look at values), texts are made up: about 5,000 of them, so that each is
read for about two users. Every measurement is a process of its own, after the method was saved in a folder: what is
timed starts with opening the folder; peak memory and CPU seconds (of all cores) are of the whole process.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from peftu.bank import Layout
from peftu.base.model import dtype_name, load_base
from peftu.base.prompt import Prompt
from peftu.config import MethodSpec, TrainSpec
from peftu.data.sources import cache_dir
from peftu.environment import current_environment
from peftu.fitted.fitted import TaskAnswers
from peftu.fitted.folder import load
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.rows import MemoryRows
from peftu.lab.lab import Lab
from peftu.methods.lora import Lora
from peftu.plan import Job

RESULT = Path(__file__).parent / "results" / "answers.json"
LABELS = ("yes", "no")
PROMPT = Prompt("Is this post hateful? Answer yes or no.", LABELS)
USERS, PAIRS, TEXTS = 1000, 10_000, 5000
MANY, SINGLE = "all-minilm-l6-v2", "smollm2-135m-instruct"


def users() -> list[str]:
    """Returns the keys of all users."""
    return [f"user {place}" for place in range(USERS)]


def pairs() -> pl.DataFrame:
    """Returns 10,000 users and texts, in no order."""
    words = ("the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we", "can")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 40))) for _ in range(TEXTS)]
    keys = users()
    return pl.DataFrame([(rng.choice(keys), rng.choice(texts)) for _ in range(PAIRS)], ["user", "text"], orient="row")


def keep(base: str, folder: Path) -> None:
    """Saves a fitted method with a random module for each user."""
    frozen = load_base(base)
    region = frozen.region(None)
    layout = Layout(Lora(), frozen.sites(region, len(LABELS)))
    rows = MemoryRows(users(), torch.randn(USERS, layout.width) * 0.02, [50] * USERS)
    lab = Lab()
    lab.add(base, frozen)
    job = Job(MethodSpec.parse("lora"), Lora(), base, None, TrainSpec())
    ModuleFitted(job, TaskAnswers("made-up", "single", LABELS, LABELS), 0, lab, PROMPT, region, rows).save(folder)


def answer_many(folder: Path) -> dict[str, Any]:
    """Returns how long all pairs take."""
    frame = pairs()
    start = time.perf_counter()
    fitted = load(folder)
    opened = time.perf_counter()
    answers = fitted.predict_many(frame)
    assert len(answers) == PAIRS
    return {"open_s": opened - start, "answers_s": time.perf_counter() - opened, "texts": frame["text"].n_unique()}


def answer_single(folder: Path) -> dict[str, Any]:
    """Returns how long one text of one user takes."""
    start = time.perf_counter()
    fitted: Any = load(folder)
    opened = time.perf_counter()
    fitted.predict("user 500", ["a post about films"])
    done = time.perf_counter()
    fitted.rows.get(["user 501"])
    return {
        "open_s": opened - start,
        "answers_s": done - opened,
        "row_s": time.perf_counter() - done,
        "row_bytes": fitted.layout.width * 4,
        "store_bytes": sum(path.stat().st_size for path in folder.rglob("shards/*")),
        "dtype": dtype_name(fitted.base.dtype),
    }


def peak_bytes() -> int:
    """Returns the most memory this process held; `ru_maxrss` would begin with that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {"many": answer_many, "single": answer_single}


def measured(stage: str, folder: Path) -> dict[str, Any]:
    """Returns what a stage measures in a process of its own, with the machine's load as it starts."""
    load_before = os.getloadavg()[0]
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**json.loads(done.stdout), "load_before": round(load_before, 2)}


def measure_all() -> dict[str, Any]:
    """Returns all measurements and what they were made on."""
    with tempfile.TemporaryDirectory() as home:
        many, single = Path(home) / "many", Path(home) / "single"
        keep(MANY, many), keep(SINGLE, single)
        many_pairs = measured("many", many)
        found = {"known": measured("single", single)}  # making the folder has left the base's fingerprint behind
        for path in (cache_dir() / "fingerprints").glob("*.json"):
            path.unlink()
        found["hashed"] = measured("single", single)
    return {
        "benchmark": "answers",
        "users": USERS,
        "pairs": PAIRS,
        "many": {"base": MANY, **many_pairs},
        "single": {"base": SINGLE, **found},
        "threads": torch.get_num_threads(),
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Measures everything, or one stage in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        found = STAGES[arguments.stage](arguments.folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({**found, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": peak_bytes()}))
        return
    result = measure_all()
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
