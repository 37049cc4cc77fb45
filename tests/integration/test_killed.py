"""A run that is killed at any moment and begun again ends as if nothing had been: nothing lost, nothing twice."""

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from interrupted import TASK, TICK, Attempts

from peftu.testing.bases import save_tiny

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")

GONE = 60  # seconds after which a process that should have ended has not
METHODS = "user-majority,zero-shot,mixed-head@./llama,lora[rank=1,targets=q],bitfit,global[rank=1,targets=q]"


def kill(process: BaseProcess) -> None:
    process.kill()


def send(number: int) -> Callable[[BaseProcess], None]:
    return lambda process: os.kill(process.pid or 0, number)


def never() -> bool:
    return False


def more_than(run: Attempts, cells: int) -> Callable[[], bool]:
    return lambda: len(run.committed) > cells


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    save_tiny("llama", home / "llama")
    (home / "raw").mkdir()
    (home / "raw" / "none.txt").write_text("nothing is read\n")
    return home


def attempts(home: Path, name: str) -> Attempts:
    arguments = [
        *("compare", TASK, "--methods", METHODS, "--base", "./llama", "--raw", "raw", "--out", name),
        *("--option", "users=12", "--option", "items=10", "--seeds", "2", "--epochs", "1"),
        *("--region", "depth=1,span=answer"),
    ]
    return Attempts(home, home / f"{name} cells", arguments)


@pytest.fixture(scope="module")
def whole(home: Path) -> Attempts:
    """The run, left alone."""
    run = attempts(home, "whole")
    assert run.attempt(never, kill) == 0, run.err
    assert set(run.begun[0]) == set(run.committed)
    return run


def predictions(run: Attempts) -> bytes:
    return (run.home / run.arguments[run.arguments.index("--out") + 1] / "predictions.parquet").read_bytes()


def beside(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_as_if_left_alone(home: Path, whole: Attempts, kills: int) -> None:
    out, rng, fatal = f"killed {kills}", random.Random(kills), 0  # noqa: S311
    run = attempts(home, out)
    while fatal < kills:
        before = run.committed
        code = run.attempt(run.moment(rng), kill)
        assert code == -signal.SIGKILL, run.err
        fatal += 1
        kept = run.committed
        assert before.items() <= kept.items()  # the very same
        assert len(set(run.begun[-1]) - set(kept)) <= 1  # only what was in flight is lost
        assert not (home / out / "run.json").exists()
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = run.committed
        assert run.attempt(lambda before=before: len(run.committed) > len(before), send(number)) == code, run.err
        line = "interrupted: what was filled is kept — the same command goes on with it"
        assert run.err.splitlines()[-1] == line
        assert "Traceback" not in run.err
        assert run.half_filled() == []

    def swapping() -> bool:
        return any(name.startswith(f".{out}.") for name in beside(home))

    assert run.attempt(swapping, kill) == -signal.SIGKILL
    assert set(run.committed) == set(whole.committed)
    assert beside(home) != []
    assert run.attempt(never, kill) == 0, run.err
    assert run.begun[-1] == []
    assert beside(home) == []
    assert predictions(run) == predictions(whole)
    fills = [name for begun in run.begun for name in begun]
    assert set(fills) == set(whole.committed)
    assert len(fills) <= len(whole.committed) + kills + 2
    assert sum(map(bool, run.begun)) > kills / 2  # the moments were spread over the work
    assert run.attempt(never, kill) == 0
    assert "holds this very run" in run.err


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_dead_worker_is_replaced_and_workers_end_with_their_driver(home: Path, whole: Attempts, workers: int) -> None:
    run, seen = attempts(home, f"worked {workers}"), list[psutil.Process]()

    def kill_worker_then_driver(process: BaseProcess) -> None:
        seen.extend(at_work(process))
        seen[0].kill()
        while process.is_alive() and len(set(at_work(process)) - set(seen)) == 0:
            process.join(TICK)
        seen.extend(set(at_work(process)) - set(seen))
        process.kill()

    assert run.attempt(more_than(run, 1), kill_worker_then_driver, "--workers", "2") == -signal.SIGKILL
    assert len(seen) == 3
    assert psutil.wait_procs(seen, timeout=GONE)[1] == []
    kept = len(run.committed)
    assert run.attempt(never, kill, "--workers", str(workers)) == 0, run.err
    assert 1 < kept < len(whole.committed)
    assert set(run.committed) == set(whole.committed)
    assert predictions(run) == predictions(whole)


def at_work(process: BaseProcess) -> list[psutil.Process]:
    """Returns the driver's workers: forked by the server that forked the driver."""
    found = []
    for child in psutil.Process(psutil.Process(process.pid).ppid()).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if child.status() != psutil.STATUS_ZOMBIE and child.pid != process.pid:
                found.append(child)
    return found


def test_out_of_time_is_a_code_of_its_own_and_the_same_command_ends_the_run(home: Path, whole: Attempts) -> None:
    run = attempts(home, "late")
    assert run.attempt(never, kill, "--max-minutes", "0") == 75
    assert run.err.splitlines()[-1].startswith("out of time: ")
    assert run.err.splitlines()[-1].endswith("what was filled is kept — the same command goes on with it")
    assert not (home / "late" / "run.json").exists()
    assert run.begun == [[]]
    run.cells = whole.cells
    assert run.attempt(never, kill, "--max-minutes", "0") == 0, run.err  # nothing is left to fill
    assert predictions(run) == predictions(whole)
