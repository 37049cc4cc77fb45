"""What a wider sentence encoder brings: `mixed-head` on all-mpnet-base-v2 beside all-minilm-l6-v2, paired by user.

    python benchmarks/encoders.py --raw DIR [--tasks A,B]    # writes results/encoders.json
    python benchmarks/results.py --page                      # puts the table into docs/results.md

Splits, users and seeds are those of the other results; `mixed-head` chooses its own settings on each. LoRA on the wider
encoder is not run yet: no search was made for its settings.
"""

import argparse
import json
import runpy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from peftu.experiment import run_spec
from peftu.files import write_atomic
from peftu.metrics import metrics
from peftu.report.words import Scale
from peftu.results import Score
from peftu.stats import differences, interval

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "encoders.json"
SMALLER, WIDER = "all-minilm-l6-v2", "all-mpnet-base-v2"
TASKS = ("tweeteval", "epic", "subjectivediscourse-response", "studemo", "hatexplain", "movielens")
METHOD = "mixed-head"


def measure(task: str, raw: Path | None) -> dict[str, Any]:
    """Returns the scores on both encoders, and the paired gain of the wider one."""
    from peftu.cli.progress import progress
    from peftu.execute.run import How, run
    from peftu.results import load_run

    limits, _, seeds = runpy.run_path(str(HERE / "results.py"))["TASKS"][task]
    methods = tuple(f"{METHOD}@{base}" for base in (SMALLER, WIDER))
    folder = raw / task.partition("-")[0] if raw else None
    with progress() as shown:
        spec = run_spec(task, methods=methods, seeds=seeds, **limits)
        files = folder if folder and folder.exists() else None
        out, record = run(spec, None, files, reporter=shown, how=How(if_exists="overwrite"))
    metric = record.task.main_metric
    users = load_run(out).user_scores().group_by("base", "user_id").agg(pl.col(metric).mean())
    both = users.pivot("base", index="user_id", values=metric).drop_nulls()
    better = metrics.get(metric).higher_is_better
    gain = interval(differences(both[WIDER].to_numpy(), both[SMALLER].to_numpy(), higher_is_better=better))
    results = {str(row.base): row.model_dump(mode="json", exclude={"gain"}) for row in record.methods}
    line = {"method": METHOD, **results, "gain": {"mean": gain.mean, "ci": [gain.low, gain.high]}}
    about = {"metric": metric, "users": record.users, "seeds": list(seeds)}
    environment = record.environment.model_dump(mode="json")
    date = datetime.now(UTC).date().isoformat()
    return {**about, "methods": [line], "dtypes": record.dtypes, "environment": environment, "date": date}


def table(results: dict[str, Any]) -> str:
    """Returns the results in Markdown."""
    lines = [f"| task | method | {SMALLER} | {WIDER} | gain [95 %, paired] | s a user |", "|---" * 6 + "|"]
    for task, measured in results.items():
        scale = Scale(metrics.get(measured["metric"]))
        for line in measured["methods"]:
            means = " | ".join(scale.score(Score(mean=line[b]["mean"], ci=line[b]["ci"])) for b in (SMALLER, WIDER))
            mean, low, high = (scale.factor * value for value in (line["gain"]["mean"], *line["gain"]["ci"]))
            seconds = " / ".join(f"{line[base]['seconds_per_user']:.2f}" for base in (SMALLER, WIDER))
            lines.append(
                f"| {task} ({measured['metric']}) | `{line['method']}` | {means} | "
                f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] | {seconds} |"
            )
    return "\n".join(lines)


def section() -> list[str]:
    """Returns the section of docs/results.md."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    dates = sorted({line["date"] for line in results.values()})
    missing = ", ".join(task for task in TASKS if task not in results)
    about = (
        f"The same users, splits and seeds, by `python benchmarks/encoders.py`, {' to '.join(dict.fromkeys(dates))}."
    )
    about += f" Not run yet: {missing}." if missing else ""
    return ["## A wider encoder", "", about, "", table(results), ""]


def main() -> None:
    """Measures tasks and writes them beside those that were measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--tasks", default=",".join(TASKS))
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for task in arguments.tasks.split(","):
        results[task] = measure(task, arguments.raw)
        write_atomic(RESULTS, json.dumps(results, indent=1) + "\n")
        print(table({task: results[task]}), flush=True)


if __name__ == "__main__":
    main()
