"""Every executor fills the same cells, and lives through tasks that fail and workers that die."""

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from peftu.cells.cache import Cells
from peftu.cells.spec import CellSpec, Reading
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.environment import cores
from peftu.errors import PeftuError
from peftu.executors import on_ray
from peftu.executors.executor import Executor, executors
from peftu.executors.local import InProcess, Workers, local
from peftu.executors.schedule import Driver
from peftu.lab.progress import Silent
from peftu.plan import plan
from peftu.testing.executors import check_executor, no_process_left

on_loopback = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture(scope="module")
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on loopback with two cores, for all tests of this file; nothing of it is left behind."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'peftu[ray]'")
    with no_process_left():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PEFTU_CACHE", str(tmp_path_factory.mktemp("cache")))
            patch.setattr(on_ray, "cores", lambda: 2)
            executor = on_ray.on_ray(Silent(), 2)
        yield
        executor.close()


def workers(count: int = 2, **options: Any) -> Executor:
    return on_ray.on_ray(Silent(), count, **options)


def fill_anything(executor: Executor, home: Path) -> None:
    table = synthetic_table(4, 10)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    job = plan(RunSpec(task="any", methods=(MethodSpec(name="user-majority"),)))[0]
    try:
        Driver(Cells(home), executor).fill([CellSpec(job, seed, problem, Reading(64)) for seed in range(2)])
    finally:
        executor.close()


@pytest.mark.parametrize("make", [lambda: InProcess(Silent()), lambda: Workers(2)], ids=["in process", "workers"])
def test_local_executors_keep_the_contract(make: Any) -> None:
    check_executor(make)


@on_loopback
@pytest.mark.usefixtures("_ray")
def test_ray_keeps_the_contract(capfd: pytest.CaptureFixture[str]) -> None:
    check_executor(workers)
    assert not capfd.readouterr().out  # a line about the worker that died would be in the JSON


@on_loopback
@pytest.mark.usefixtures("_ray")
def test_ray_listens_on_loopback_only() -> None:
    listening = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has ended meanwhile
            listening += [c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"]
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def odd_worker(name: str) -> type[Any]:
    """Returns a class of workers; of a function, so that they need not import it."""

    class Odd:
        def begin(self, threads: int) -> tuple[str, str]:
            if name == "lacking":
                raise ModuleNotFoundError("No module named 'torch'")
            if name == "dying":
                os._exit(1)
            return "0.0.9", "sha256:abcdef0123456789"

        def fill(self, *task: Any) -> None:
            pass

    return Odd


@on_loopback
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize(
    ("worker", "line"),
    [
        ("lacking", r"^--executor ray: a worker cannot start: ModuleNotFoundError: No module named 'torch'$"),
        ("dying", r"^--executor ray: 3 workers have died at their start: "),
        (
            "older",
            r"^--executor ray: peftu is .* here and 0\.0\.9 \(sha256:abcdef01\) on a worker — install the same one",
        ),
    ],
)
def test_a_worker_that_cannot_be_used_is_a_line(
    worker: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "Worker", odd_worker(worker))
    with pytest.raises(PeftuError, match=line):
        fill_anything(workers(), tmp_path)


@on_loopback
@pytest.mark.usefixtures("_ray")
def test_no_room_is_a_line() -> None:
    with pytest.raises(PeftuError, match="--workers 9: Ray has room for 2 — use fewer"):
        workers(9)
    with pytest.raises(PeftuError, match=r"--workers 1: Ray has room for 0 with 0\.5 GPUs each"):
        workers(1, gpus=0.5)
    with pytest.raises(PeftuError, match=r"--workers 1: Ray has room for 0 with 1 GPUs each"):
        workers(1, device="cuda")
    with pytest.raises(PeftuError, match="--device cuda:1: Ray gives each worker its own GPU — write --device cuda"):
        workers(1, device="cuda:1")


@on_loopback
def test_an_address_where_nothing_answers_is_a_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(PeftuError, match=f"--address 127.0.0.1:{port}: no Ray answers"):
        on_ray._answering(f"127.0.0.1:{port}")


@on_loopback
@pytest.mark.parametrize("says", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_an_address_where_something_else_answers_is_a_line(says: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):  # whoever called may have gone already
                if says is not None:
                    connection.sendall(says)
                    connection.shutdown(socket.SHUT_WR)
                while connection.recv(1024):
                    pass

        served = pool.submit(serve)
        with pytest.raises(PeftuError, match=rf"--address 127.0.0.1:{port}: no Ray answers \(.+\) — begin one"):
            on_ray._answering(f"127.0.0.1:{port}")
        served.result()


@on_loopback
@pytest.mark.usefixtures("_ray")
def test_where_ray_answers_it_is_connected_to() -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert on_ray._answering(address) == address


@pytest.mark.parametrize("address", ["localhost", "ray://localhost:10001", "host:", "host:99999", ":6379"])
def test_what_is_no_address_is_a_line(address: str) -> None:
    with pytest.raises(PeftuError, match="is no address — write auto, or HOST:PORT"):
        on_ray._answering(address)


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(PeftuError, match=r"pip install 'peftu\[ray\]'"):
        executors.get("ray")(Silent(), 2)


@pytest.mark.parametrize(
    ("nodes", "asked", "gpus", "share"),
    [
        ([(8, 0)], 0, 0, (8, 1)),
        ([(8, 0)], 3, 0, (3, 2)),
        ([(4, 0), (4, 0)], 1, 0, (1, 4)),  # no worker is wider than a machine
        ([(3, 0), (3, 0)], 3, 0, (3, 1)),  # two of two cores do not fit on three
        ([(16, 2), (16, 0)], 0, 0.5, (4, 4)),
        ([(4, 1)], 0, 0.1, (4, 1)),
    ],
)
def test_workers_share_the_cores(
    nodes: list[tuple[float, float]], asked: int, gpus: float, share: tuple[int, int]
) -> None:
    assert on_ray._share(nodes, asked, gpus) == share


def test_no_workers_named_is_a_core_each() -> None:
    executor = local(Silent(), 0)
    executor.close()
    assert executor.slots == cores()
