"""Seconds and bytes of a store with ten thousand people's modules.

    python benchmarks/store.py [--modules 10000] [--width 68354] [--folder DIR] [--out FILE]

Rows of invented numbers, as wide as the default LoRA on all-minilm-l6-v2, added 256 users at a time as a run does. Each
reading is timed in a process of its own: median and least of nine. Cold: the store is open, and all its files have been
dropped from the page cache (`posix_fadvise`). First: nor is it open, so that the time has the opening in it. What the
disk takes by itself stands beside: as many bytes from as many places, read by `pread` and looked at by nobody.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftu.environment import current_environment
from peftu.store import AdapterStore, Collection, checksum

USERS_AT_ONCE = 256
REPEATS = 9


def fill(folder: Path, modules: int, width: int) -> Collection:
    """Returns what the modules of a new store are kept as."""
    kind = Collection("lora@all-minilm-l6-v2", 0, "all-minilm-l6-v2", "sha256:0", width, "{}")
    with AdapterStore(folder, create=True) as store:
        for first in range(0, modules, USERS_AT_ONCE):
            users = [f"user-{place}" for place in range(first, min(first + USERS_AT_ONCE, modules))]
            rows = torch.randn(len(users), width, generator=torch.Generator().manual_seed(first))
            store.add(kind, users, rows, [1] * len(users), provenance={"source": "invented"})
    return kind


def drop_from_cache(folder: Path) -> None:
    """Has the next reader of a store fetch it from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            opened = os.open(path, os.O_RDONLY)
            os.fsync(opened)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


def apart(work: Callable[[AdapterStore], Any], folder: Path, cold: bool = True) -> dict[str, float]:
    """Returns seconds and processor seconds of work on an open store in a new process, and how its memory grows."""
    mine, other = multiprocessing.Pipe()

    def timed() -> None:
        torch.set_num_threads(1)
        torch.randn(8).sum().isfinite(), checksum(torch.randn(8))
        with AdapterStore(folder) as store:
            store.collections()
            if cold:
                drop_from_cache(folder)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before, begin, worked = peak(), time.perf_counter(), time.process_time()
            work(store)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - worked
            other.send({"seconds": seconds, "cpu_seconds": cpu, "memory": peak() - before})

    process = multiprocessing.get_context("fork").Process(target=timed)
    process.start()
    result: dict[str, float] = mine.recv()
    process.join()
    return result


def peak() -> int:
    """Returns the most bytes that this process had in memory since it was asked to count anew."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def rows_in(shard: Path, width: int) -> int:
    """Returns how many modules a shard holds."""
    return shard.stat().st_size // (4 * width)


def bytes_alone(places: Sequence[tuple[Path, int]], size: int, threads: int) -> None:
    """Reads so many bytes from each place, and does nothing with them."""

    def one(place: tuple[Path, int]) -> None:
        path, row = place
        opened = os.open(path, os.O_RDONLY)
        assert len(os.pread(opened, size, path.stat().st_size - size * (row + 1))) == size
        os.close(opened)

    with ThreadPoolExecutor(threads) as pool:
        deque(pool.map(one, places), maxlen=0)


def measured(folder: Path, modules: int, width: int) -> dict[str, Any]:
    """Returns what a store of so many modules costs."""
    begin = time.perf_counter()
    kind = fill(folder, modules, width)
    filled = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    draw = np.random.default_rng(0)
    places_of = [(path, row) for path in sorted((folder / "shards").iterdir()) for row in range(rows_in(path, width))]

    def read(users: int) -> Callable[[AdapterStore], Any]:
        keys = [f"user-{place}" for place in draw.choice(modules, users, replace=False)]
        return lambda store: store.get(kind, keys)

    def opened(_: AdapterStore) -> None:
        with AdapterStore(folder) as store:
            assert len(store.keys(kind)) == modules

    def first(users: int) -> Callable[[AdapterStore], Any]:
        look = read(users)

        def looked(_: AdapterStore) -> None:
            with AdapterStore(folder) as store:
                look(store)

        return looked

    def alone(users: int, threads: int) -> Callable[[AdapterStore], Any]:
        places = [places_of[user] for user in draw.choice(modules, users, replace=False)]
        return lambda _: bytes_alone(places, 4 * width, threads)

    def several(work: Callable[[], Callable[[AdapterStore], Any]], cold: bool = True) -> dict[str, float]:
        times = [apart(work(), folder, cold) for _ in range(REPEATS)]
        figures = {name: statistics.median(one[name] for one in times) for name in times[0]}
        return figures | {"least_seconds": min(one["seconds"] for one in times)}

    def verified(store: AdapterStore) -> None:
        assert store.verify() == modules

    def erased(store: AdapterStore) -> None:
        assert store.erase("user-7") == 1

    return {
        "add_s": filled,
        "bytes": size,
        "bytes_of_tensors": 4 * modules * width,
        "ratio": size / (4 * modules * width),
        "shards": len(list((folder / "shards").iterdir())),
        "open_and_list": several(lambda: opened),
        "one_module": several(lambda: read(1)),
        "one_module_first": several(lambda: first(1)),
        "one_module_bytes_alone": several(lambda: alone(1, 1)),
        "hundred_modules": several(lambda: read(min(100, modules))),
        "hundred_modules_first": several(lambda: first(min(100, modules))),
        "hundred_modules_bytes_alone": several(lambda: alone(min(100, modules), 1)),
        "hundred_modules_bytes_alone_in_8_threads": several(lambda: alone(min(100, modules), 8)),
        "hundred_modules_in_the_page_cache": several(lambda: read(min(100, modules)), cold=False),
        "verify_all": apart(verified, folder),
        "erase_one_user": apart(erased, folder),
    }


def main() -> None:
    """Prints the figures and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=68_354)
    parser.add_argument("--folder", type=Path, help="Where the store is put for the while; default a temporary folder.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "store.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as home:
        figures = measured(Path(home) / "modules", asked.modules, asked.width)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "modules": asked.modules,
        "width": asked.width,
        **figures,
        "load_average": round(os.getloadavg()[0], 1),  # on a busy machine the CPU seconds tell more than the clock
        "environment": current_environment().model_dump(mode="json"),
    }
    print(json.dumps(result, indent=1))
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
