"""What work costs: seconds and peak memory as measured, and an estimate before it starts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.05


@dataclass
class Measured:
    """Seconds and peak resident memory of a block; filled in when it ends."""

    seconds: float = 0.0
    peak_rss_bytes: int = 0


@contextmanager
def measured() -> Iterator[Measured]:
    """Measures the block: wall seconds, and the largest resident memory of this process while it runs."""
    result, done, process = Measured(), threading.Event(), psutil.Process()

    def sample() -> None:
        while True:
            result.peak_rss_bytes = max(result.peak_rss_bytes, process.memory_info().rss)
            if done.wait(SAMPLE_SECONDS):
                return

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    start = time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - start
        done.set()
        sampler.join()
