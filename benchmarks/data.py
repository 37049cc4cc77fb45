"""How long every task at hand takes to build, and a million rows to import; with the most memory each holds.

    python benchmarks/data.py --raw DIR            # DIR holds one folder a task, as their publishers lay the files out
    python benchmarks/data.py --table              # print what was measured

Each task is built in a process of its own with an empty cache, so hashing the files and writing the table count;
imports of libraries do not. ``seconds`` passed on the clock, ``cpu_seconds`` were computed: on a machine with other
work the first is longer, and ``load`` (runnable processes, at the end) says so. The imported table is made up:
1,000,000 rows of 10,000 users on 200,000 texts of 20 words, as CSV, JSONL and Parquet. The JSON in results/data.json
says on which machine and day.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

RESULTS = Path(__file__).parent / "results" / "data.json"
USERS, TEXTS, WORDS = 10_000, 200_000, 20
DISCOURSE = "subjectivediscourse"
FOLDERS = {
    "cockamamie": "cockamamie",
    "convabuse": "convabuse",
    "epic": "epic",
    "goemotions": "goemotions",
    "hatecheck": "hatecheck",
    "hatexplain": "hatexplain",
    "multipico": "multipico",
    "polis bowling-green": "polis/american-assembly.bowling-green",
    "polis biodiversity": "polis/scoop-hivemind.biodiversity",
    "stackexchange-beer": "stackexchange/beer_2017",
    "stackexchange-matheducators": "stackexchange/matheducators_2014",
    "stackexchange-quantumcomputing": "stackexchange/quantumcomputing_2018",
    "studemo": "studemo",
    **{f"{DISCOURSE}-{part}": DISCOURSE for part in ("response", "question-sentiment", "response-sentiment")},
    "tweeteval": "tweeteval",
}
Row = dict[str, Any]


def alone(*command: str) -> Row:
    """Returns what one measurement took in a process and with a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PEFTU_CACHE": cache}
        done = subprocess.run(
            [sys.executable, __file__, "--one", *command], check=True, capture_output=True, text=True, env=environment
        )
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found


def one(what: str, name: str, path: str = "") -> None:
    """Builds a task, or imports a file, in this process and prints what it took as JSON."""
    from peftu.data.commands import build
    from peftu.data.importer.importing import import_file

    start, busy = time.perf_counter(), time.process_time()
    if what == "import":
        found = import_file(Path(name))
    else:
        found = build(name, Path(path), {"moderated": "keep"} if name == "polis" else {})
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rounded = {key: round(value, 2) for key, value in took.items()}
    print(json.dumps({"annotations": found["annotations"], **rounded, "peak_megabytes": round(peak / 1e6)}))


def made_up(rows: int) -> pl.DataFrame:
    """Returns a table: each user judges different texts, at a time."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{number}" for number in range(5_000)])
    texts = [" ".join(vocabulary[own]) for own in rng.integers(0, len(vocabulary), (TEXTS, WORDS))]
    each = -(-rows // USERS)
    text = np.concatenate([rng.choice(TEXTS, each, replace=False) for _ in range(USERS)])[:rows]
    return pl.DataFrame(
        {
            "annotator": [f"annotator-{number}" for number in np.repeat(np.arange(USERS), each)[:rows]],
            "comment": pl.Series(texts).gather(text),
            "stars": rng.integers(1, 6, rows),
            "timestamp": rng.integers(1_500_000_000, 1_700_000_000, rows),
            "unused": rng.random(rows),
        }
    ).sample(fraction=1, shuffle=True, seed=0)


def tasks_measured(raw: Path) -> list[Row]:
    """Returns one line for each task whose files are there."""
    there = {name: raw / folder for name, folder in FOLDERS.items() if (raw / folder).is_dir()}
    return [{"task": name, **alone("build", name.split()[0], str(path))} for name, path in there.items()]


def imports_measured(rows: int) -> list[Row]:
    """Returns one line for each format of the made-up table."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        table = made_up(rows)
        for name, write in (("csv", table.write_csv), ("jsonl", table.write_ndjson), ("parquet", table.write_parquet)):
            path = Path(folder) / f"made-up.{name}"
            write(path)
            found.append({"format": name, **alone("import", str(path))})
            path.unlink()
    return found


def summary(measured: Row) -> str:
    """Returns what was measured as text."""
    about = measured["environment"]
    lines = [f"{measured['date']}, {about['cpu']}, {about['cores']} cores, load {measured['load']:.1f}"]
    for kind, name in (("tasks", "task"), ("imports", "format")):
        rows = measured[kind]
        total = {key: sum(row[key] for row in rows) for key in ("annotations", "seconds", "cpu_seconds")}
        most = max(row["peak_megabytes"] for row in rows)
        lines += [
            f"{row[name]:38} {row['annotations']:>9,} rows {row['seconds']:6.2f} s "
            f"({row['cpu_seconds']:6.2f} computed) {row['peak_megabytes']:6,} MB"
            for row in [*rows, {name: f"all {kind}", **total, "peak_megabytes": most}]
        ]
    return "\n".join(lines)


def main() -> None:
    """Measures, or prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a task")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table that is imported")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    if not given.table:
        from peftu.environment import current_environment

        if given.raw is None:
            parser.error("--raw: pass the folder with one folder a task")
        measured = {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": current_environment().model_dump(mode="json"),
            "tasks": tasks_measured(given.raw),
            "imports": imports_measured(given.rows),
            "load": os.getloadavg()[1],
        }
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(summary(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
