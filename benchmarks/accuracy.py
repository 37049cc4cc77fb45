"""Accuracy of the reference methods and LoRA on real people's labels; the README's table comes from its JSON.

    python benchmarks/accuracy.py --raw DIR        # DIR holds tweeteval/ and epic/ as their publishers lay them out
    python benchmarks/accuracy.py --table          # print the table of the committed JSON

Everything was chosen on validation data; the test rows are scored once, here.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "accuracy.json"
METHODS = (
    "global-majority",
    "user-majority",
    "mixed-head@all-minilm-l6-v2",
    "mixed-head[features=both]@smollm2-135m-instruct",
    "zero-shot",
    "global",
    "lora",
    "lora[warm_start=global]",
)
TASKS = {"tweeteval": (0, 1, 2, 3, 4), "epic": (0,)}


def measure(task: str, raw: Path | None, out: Path) -> dict[str, Any]:
    """Returns one task's leaderboard."""
    from peftu.cli.progress import progress
    from peftu.config import MethodSpec, RunSpec
    from peftu.execute.run import How, run

    spec = RunSpec(task=task, methods=tuple(MethodSpec.parse(m) for m in METHODS), seeds=TASKS[task])
    with progress() as shown:
        _, record = run(spec, out / task, raw / task if raw else None, reporter=shown, how=How(if_exists="overwrite"))
    environment = record.environment.model_dump(mode="json")
    return {**record.cli_json(), "seeds": list(spec.seeds), "environment": environment, "cost": vars(record.cost)}


def table(task: dict[str, Any]) -> str:
    """Returns a task's leaderboard in Markdown, best first."""
    lines = [
        "| method | base | accuracy [95 % interval] | gain over user-majority | helped / same / hurt | s a user |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(task["methods"], key=lambda m: -m["mean"]):
        gain = row["gain"]["user-majority"]
        low, high = (100 * x for x in row["ci"])
        change = f"{100 * gain['mean']:+.1f} [{100 * gain['ci'][0]:+.1f}, {100 * gain['ci'][1]:+.1f}]"
        counts = f"{row['helped']} / {row['unchanged']} / {row['hurt']}"
        base = row["base"] or "none"
        mean = f"{100 * row['mean']:.1f} [{low:.1f}, {high:.1f}]"
        lines.append(f"| {row['method']} | {base} | {mean} | {change} | {counts} | {row['seconds_per_user']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with one folder a task; otherwise downloaded")
    parser.add_argument("--out", type=Path, default=Path("runs") / "accuracy")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--table", action="store_true", help="print the table of the committed JSON")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not arguments.table:
        for task in arguments.tasks.split(","):
            results[task] = measure(task, arguments.raw, arguments.out) | {"date": datetime.now(UTC).date().isoformat()}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, task in results.items():
        print(f"\n{name}, {task['regime']}, {task['users']} users, seeds {task['seeds']}, {task['date']}\n")
        print(table(task))


if __name__ == "__main__":
    main()
