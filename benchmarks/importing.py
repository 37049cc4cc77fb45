"""How long `peftu data import` takes for a million rows, and the most memory it holds.

Run: python benchmarks/importing.py [rows]. Writes a made-up table (10,000 users, 200,000 texts of 20 words each) as
CSV, JSONL and Parquet to a temporary folder and imports each in a process of its own.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

USERS, TEXTS, WORDS = 10_000, 200_000, 20


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


def measure(path: Path, cache: Path) -> None:
    """Imports one file in this process and prints what it took."""
    os.environ["PEFTU_CACHE"] = str(cache)
    from peftu.data.importer import import_file

    start = time.perf_counter()
    found = import_file(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert found["users"] <= USERS
    about = {"file": path.name, "megabytes": path.stat().st_size / 1e6, "rows": found["annotations"]}
    print(json.dumps({**about, "seconds": round(seconds, 1), "peak_gigabytes": round(peak / 1e9, 2)}))


def main(rows: int = 1_000_000) -> None:
    """Measures every format."""
    with tempfile.TemporaryDirectory() as folder:
        table = made_up(rows)
        for name, write in (("csv", table.write_csv), ("jsonl", table.write_ndjson), ("parquet", table.write_parquet)):
            path = Path(folder) / f"made-up.{name}"
            write(path)
            subprocess.run([sys.executable, __file__, "--file", str(path), folder], check=True)
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--file"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
