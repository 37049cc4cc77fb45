"""Two processes on one socket: whichever answers, everybody's change is seen, and a process that dies is replaced."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from terminal import SRC, TASK, peftu

LORA = "lora[rank=2]"
EXAMPLES = {"examples": [{"text": f"Note {n} of soup.", "labels": ["likes"]} for n in range(6)]}
WAIT = 120.0  # seconds in which whatever is waited for must come


@pytest.fixture(scope="module")
def port(place: Path) -> Iterator[int]:
    made = ("compare", TASK, "--methods", LORA, "--base", "./llama", "--raw", "raw", "--epochs", 1)
    assert peftu(*made, "--region", "depth=1,span=answer", "--out", "many").code == 0
    (place / "shared").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "TMPDIR": str(place / "shared")}
    command = [sys.executable, "-m", "peftu", "serve", "many", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = ""
        while "on http://" not in line:
            line = server.stderr.readline()
            assert line
        yield int(line.rsplit(":", 1)[1])
        server.send_signal(signal.SIGTERM)
        rest = server.stderr.read()
    assert "Traceback" not in rest
    assert "newcomer" not in rest


def ask(port: int, method: str, path: str, **given: Any) -> httpx.Response:
    """Returns the answer to a request on a connection of its own: either process may have it."""
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", timeout=WAIT, **given)


def predicted(port: int, user: str) -> tuple[int, Any]:
    answer = ask(port, "POST", "/v1/predict", json={"users": [user], "inputs": ["a note"]})
    return answer.status_code, answer.json().get("results")


def until(port: int, path: str, reached: Any) -> Any:
    end = time.monotonic() + WAIT
    while not reached(said := ask(port, "GET", path)):
        assert time.monotonic() < end
    return said.json()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_what_one_process_changes_all_see(port: int, place: Path) -> None:
    until(port, "/readyz", lambda said: said.status_code == 200)
    assert {predicted(port, "newcomer")[0] for _ in range(20)} == {404}
    for change in range(2):
        if change:
            (lock,) = (place / "shared").glob("*/lead.lock")
            os.kill(int(lock.read_text()), signal.SIGKILL)
        end = time.monotonic() + WAIT
        while (said := ask_again(port, "PUT", "/v1/users/newcomer/examples", json=EXAMPLES)).status_code != 202:
            assert time.monotonic() < end, said.text
        until(port, "/v1/users/newcomer", lambda said: said.json().get("enrolment", {}).get("state") == "done")
        seen = [predicted(port, "newcomer") for _ in range(20)]
        assert {status for status, _ in seen} == {200}
        assert all(one == seen[0] for one in seen)
    assert ask(port, "DELETE", "/v1/users/newcomer").status_code == 200
    assert {predicted(port, "newcomer")[0] for _ in range(20)} == {404}
    metrics = ask(port, "GET", "/metrics").text
    assert 'peftu_requests_total{method="DELETE",route="/v1/users/{key:path}",status="200"} 1.0' in metrics
    assert 'peftu_changes_total{change="forget",outcome="done"} 1.0' in metrics


def ask_again(port: int, method: str, path: str, **given: Any) -> httpx.Response:
    """Returns the answer to a request, which a process that is killed may take with it."""
    end = time.monotonic() + WAIT
    while True:
        try:
            return ask(port, method, path, **given)
        except httpx.TransportError:
            assert time.monotonic() < end
