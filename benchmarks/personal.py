"""Personal methods beside `mixed-head`, on rows that no reported result is made of: for choices, not for tables.

    python benchmarks/personal.py --raw DIR --out NAME [METHOD ...]    # adds to results/personal-NAME.json
    python benchmarks/personal.py --out NAME --table                   # prints it

Seeds are 10 and up. A seed's test rows are dropped (of unseen users: every row), and the rest is split anew by the same
regime; what is then held out is neither trained on nor chosen by. So a method that chooses more on its validation rows
has no gain of that here.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import PARTS, Problem
from peftu.data.splits import make_problem, make_split
from peftu.data.table import UserTable
from peftu.files import write_atomic
from peftu.lab.progress import Silent
from peftu.plan import plan
from peftu.stats import interval

RESULTS = Path(__file__).parent / "results"
AGAINST = "mixed-head@all-minilm-l6-v2"
SMALL = {"users": 20, "max_items": 50}
TASKS: dict[str, dict[str, Any]] = {"tweeteval": {}, "epic": SMALL, "subjectivediscourse-response": SMALL}
SPLITS: dict[str, dict[str, Any]] = {
    "within-user": {"regime": "within-user"},
    "unseen-text": {"regime": "unseen-text"},
    "k=5": {"regime": "unseen-user", "k": 5},
    "k=10": {"regime": "unseen-user", "k": 10},
}
KEPT = ("priors", "directions", "directions_tried")  # of a fit's notes


def held_in(table: UserTable, split: SplitSpec, seed: int) -> UserTable:
    """Returns the table without a seed's test rows, and without users who are unseen at that seed."""
    parts = make_split(table, split, seed).frame
    out = parts.filter(pl.col("part") == "test")
    if split.regime == "unseen-user":
        out = parts.join(out, on="user_id", how="semi")
    kept = parts.join(out, on=["user_id", "item_id"], how="anti")
    return UserTable.of_frame(table.card, table.frame.join(kept, on=["user_id", "item_id"], how="semi"))


def by_user(problem: Problem, rows: Any, scores: Any) -> dict[str, tuple[float, float]]:
    """Returns of each user with held-out rows the mean log-likelihood of a row and the share of right answers."""
    of = problem.part[rows] == PARTS.index("test")
    rows, scores = rows[of], scores[of]
    target = problem.target[rows]
    likelihood = (target * scores).sum(1)
    right = scores.argmax(1) == target.argmax(1)
    if not problem.card.answers.exclusive:
        likelihood += ((1 - target) * np.log1p(-np.exp(scores).clip(max=1 - 1e-7))).sum(1)
        right = ((scores > np.log(0.5)) == (target > 0)).all(1)
    of_user = {problem.users[user]: problem.user[rows] == user for user in np.unique(problem.user[rows])}
    return {key: (float(likelihood[own].mean()), float(right[own].mean())) for key, own in of_user.items()}


def measure(method: str, fits: Fits, task: str, users: list[str]) -> dict[str, Any]:
    """Returns a method's scores, by the user's number, as means over the seeds at which rows of theirs are held out."""
    job = plan(RunSpec(task=task, methods=(MethodSpec.parse(method),)))[-1]
    begun, scores, notes = time.perf_counter(), {}, []
    for seed, problem in fits.problems.items():
        cell = fits.run(job, seed)
        for key, score in by_user(problem, cell.rows, cell.fitted.written(cell.scores)).items():
            scores.setdefault(users.index(key), []).append(score)
        notes.append({key: cell.notes[key] for key in KEPT if key in cell.notes})
    means = {str(user): np.round(np.mean(scores[user], axis=0), 5).tolist() for user in sorted(scores)}
    return {"users": means, "notes": notes, "seconds": round(time.perf_counter() - begun, 1)}


def table(results: dict[str, Any]) -> str:
    """Returns what was measured, in Markdown: means over users, and the paired gain on `AGAINST` with its interval."""
    lines = ["| task | split | method | log-likelihood | gain, nats | accuracy | gain, points | s |", "|---" * 8 + "|"]
    for name, methods in results.items():
        for method, line in methods.items():
            cells = []
            own, other = (np.array(list(x["users"].values())) for x in (line, methods[AGAINST]))
            for what, factor, digits in ((0, 1, 3), (1, 100, 1)):
                gain = interval(factor * (own - other)[:, what])
                cells.append(f"{factor * own[:, what].mean():.{digits}f}")
                shown = f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"
                cells.append(shown if method != AGAINST else "")
            task, split = name.split("/")
            lines.append(f"| {task} | {split} | `{method}` | {' | '.join(cells)} | {line['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--out", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--splits", default=",".join(SPLITS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    path = RESULTS / f"personal-{asked.out}.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if asked.table:
        print(table(results))
        return
    for task in asked.tasks.split(","):
        whole = load_task(task, asked.raw and asked.raw / task.partition("-")[0], {})
        for split in asked.splits.split(","):
            there = results.setdefault(f"{task}/{split}", {})
            wanted = [method for method in (AGAINST, *asked.methods) if asked.again or method not in there]
            if not wanted:
                continue
            spec = SplitSpec(**TASKS[task], **SPLITS[split])
            problems = {}
            for seed in asked.seeds:
                inner = held_in(whole, spec, seed)
                problems[seed] = make_problem(inner, whole.card, make_split(inner, spec, seed))
            users = whole.frame["user_id"].unique().sort().to_list()
            fits = Fits(whole.card, problems, 256, Silent())
            for method in wanted:
                there[method] = measure(method, fits, task, users)
                write_atomic(path, json.dumps(results) + "\n")
                print(table({f"{task}/{split}": {m: there[m] for m in (AGAINST, method)}}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
