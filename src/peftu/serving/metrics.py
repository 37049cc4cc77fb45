"""What Prometheus is told: counts, times and sizes. No label ever holds a user, a text or a path with a key."""

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # where processes that answer on one socket put their numbers

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, float("inf"))


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: Any = {"registry": self.registry}
        route = ["route", "method", "status"]
        self._requests = Counter("peftu_requests", "Requests by route template.", route, **made)
        self._seconds = Histogram("peftu_request_seconds", "Seconds from request to answer.", ["route"], **made)
        waiting = "Pairs of user and text that wait."
        self._queue = Gauge("peftu_queue_pairs", waiting, multiprocess_mode="livesum", **made)
        self._batch_requests = Histogram("peftu_batch_requests", "Requests a batch.", buckets=SIZES, **made)
        self._batch_pairs = Histogram("peftu_batch_pairs", "Pairs a batch.", buckets=SIZES, **made)
        self._batch_seconds = Histogram("peftu_batch_seconds", "Seconds a batch.", **made)
        self._modules = Counter("peftu_modules", "Module rows: hits, loads and evictions.", ["tier", "event"], **made)
        self._changes = Counter("peftu_changes", "Enrolments and deletions by outcome.", ["change", "outcome"], **made)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request by its route's template."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def queued(self, pairs: int) -> None:
        """Notes how many pairs wait."""
        self._queue.set(pairs)

    def batch(self, requests: int, pairs: int, seconds: float) -> None:
        """Notes the size and time of a batch."""
        self._batch_requests.observe(requests)
        self._batch_pairs.observe(pairs)
        self._batch_seconds.observe(seconds)

    def modules(self, event: str, count: int) -> None:
        """Counts hits, loads and evictions of rows in memory."""
        self._modules.labels("memory", event).inc(count)

    def change(self, change: str, outcome: str) -> None:
        """Counts an enrolment or a deletion."""
        self._changes.labels(change, outcome).inc()

    def page(self) -> bytes:
        """Returns all of it as Prometheus reads it, of all processes."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)
