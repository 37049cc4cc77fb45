"""What speed does to accuracy: LoRA by depth and span of its region, each against full LoRA on the same users and rows.

    python benchmarks/regions.py --raw DIR [--tasks tweeteval,epic] [--regions depth=6,span=answer]
    python benchmarks/regions.py --table          # print the table of the committed JSON

DIR holds a folder a task. Chosen on training data alone: a user's module learns from some of the user's train rows and
stops by the val rows; accuracy is over other train rows (SIZES says how many); test rows are not read. What was
measured before is kept, so a run that was cut off goes on where it stopped.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftu.bank import Layout
from peftu.base.model import load_base
from peftu.config import RegionSpec, SplitSpec, TrainSpec
from peftu.data.load import load_task
from peftu.data.splits import make_problem, make_split
from peftu.environment import current_environment
from peftu.lab.lab import prompt_of
from peftu.methods.lora import Lora
from peftu.predict import score
from peftu.train import train
from peftu.train_rows import Examples, Unit

RESULTS = Path(__file__).parent / "results" / "regions.json"
BASE = "smollm2-135m-instruct"
USERS, EPOCHS, SEED = 10, 4, 0
SIZES = {"tweeteval": (64, 96), "epic": (24, 48)}  # rows a user to train on, and to judge by; epic's posts are long
REGIONS = {
    f"depth={depth or 'full'},span={span}": RegionSpec(depth=depth, span=span)
    for span, depth in (
        ("last", 2),
        ("last", 4),
        ("last", 6),
        ("last", 12),
        ("last", None),
        ("answer", 2),
        ("answer", 6),
        ("answer", 12),
        ("answer", None),
        ("all", 6),
        ("all", None),
    )
}
FULL = "depth=full,span=all"
RESAMPLES = 10_000


def measure(task: str, region: RegionSpec, raw: Path | None) -> dict[str, Any]:
    """Returns each user's accuracy in a region, and the seconds a user it took."""
    table = load_task(task, raw)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(users=USERS)))
    prompt, base = prompt_of(table.card, 256), load_base(BASE)
    learned, others = SIZES[task]
    parts = []
    for number in range(len(problem.users)):
        rows = np.random.default_rng([SEED, number]).permutation(problem.rows("train", number))
        parts.append((rows[:learned], problem.rows("val", number), rows[learned : learned + others]))
    read = np.unique(np.concatenate([problem.text[rows] for own in parts for rows in own]))

    def examples(rows: np.ndarray) -> Examples:
        ones = np.ones(len(rows), dtype=np.float32)
        return Examples(np.searchsorted(read, problem.text[rows]), problem.target[rows], ones)

    units = [Unit(key, examples(own[0]), examples(own[1])) for key, own in zip(problem.users, parts, strict=True)]
    held = [own[2] for own in parts]
    resolved = base.region(region)
    start = time.perf_counter()
    context = base.prefill(prompt, [problem.texts[text] for text in read], resolved)
    layout = Layout(Lora(), base.sites(resolved, len(prompt.words)))
    trained = train(base, context, layout, units, TrainSpec(epochs=EPOCHS, batch=8, lr=1e-3), SEED)
    seconds = time.perf_counter() - start
    pairs, owner = np.concatenate(held), np.repeat(np.arange(len(units)), [len(h) for h in held])
    scores = score(base, context, examples(pairs).text, layout, trained.rows, owner)
    right = scores.argmax(1) == problem.target[pairs].argmax(1)
    return {
        "accuracy": [float(right[owner == user].mean()) for user in range(len(units))],
        "seconds_per_user": seconds / len(units),
        "bytes_per_user": 4 * layout.width,
        "rows_per_user": [len(h) for h in held],
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": current_environment().model_dump(mode="json"),
    }


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns mean and 95 % bootstrap interval over users."""
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def table(regions: dict[str, Any]) -> str:
    """Returns a task's regions in Markdown, with the difference to full LoRA over the same users."""
    lines = [
        "| region | accuracy | minus full LoRA, points [95 %, paired] | s a user | KB a user |",
        "|---|---|---|---|---|",
    ]
    full = regions.get(FULL)
    for name, found in regions.items():
        accuracy, apart = np.array(found["accuracy"]), ""
        if full is not None and name != FULL:
            mean, low, high = (100 * x for x in interval(accuracy - np.array(full["accuracy"])))
            apart = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        size = found["bytes_per_user"] / 1000
        cells = (f"`{name}`", f"{100 * accuracy.mean():.1f}", apart, f"{found['seconds_per_user']:.1f}", f"{size:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures what has not been measured yet, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with one folder a task; otherwise downloaded")
    parser.add_argument("--tasks", default="tweeteval,epic")
    parser.add_argument("--regions", nargs="*", default=list(REGIONS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not arguments.table:
        for task in arguments.tasks.split(","):
            for name in arguments.regions:
                if name in results.setdefault(task, {}):
                    continue
                results[task][name] = measure(task, REGIONS[name], arguments.raw / task if arguments.raw else None)
                ordered = {key: results[task][key] for key in REGIONS if key in results[task]}
                results[task] = ordered
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                print(f"{task} {name}: {np.mean(ordered[name]['accuracy']):.3f}", flush=True)
    for task, regions in results.items():
        print(f"\n{task}: {USERS} users, {SIZES[task][0]} train rows each, {EPOCHS} epochs\n\n{table(regions)}")


if __name__ == "__main__":
    main()
