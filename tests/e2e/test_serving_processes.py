"""Two processes on one socket: whichever answers, everybody's change is seen, and a process that dies is replaced."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from terminal import SRC, TASK, peftu

from peftu.serving.app import make_app
from peftu.serving.service import Service
from peftu.testing import load_tiny
from peftu.testing.fitted import fit_tiny

torch.set_num_threads(1)

LORA = "lora[rank=2]"
EXAMPLES = {"examples": [{"text": f"Note {n} of soup.", "labels": ["likes"]} for n in range(6)]}
WAIT = 200.0  # seconds in which whatever is waited for must come


@asynccontextmanager
async def living(place: Path, shared: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of a service that shares its people with others, as another process would."""
    app = make_app(Service(place), shared)
    told, said = asyncio.Queue[Any](), asyncio.Queue[Any]()
    life = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client
    await told.put({"type": "lifespan.shutdown"})
    await life


async def enrolled(client: httpx.AsyncClient) -> None:
    assert (await client.put("/v1/users/new/examples", json=EXAMPLES)).status_code == 202
    while (await client.get("/v1/users/new")).json()["enrolment"]["state"] != "done":
        await asyncio.sleep(0)


async def asked(*clients: httpx.AsyncClient) -> list[Any]:
    body = {"users": ["new"], "inputs": ["a note"]}
    answers = [await client.post("/v1/predict", json=body) for client in clients]
    return [answer.json().get("results", answer.status_code) for answer in answers]


async def led(place: Path, shared: Path) -> None:
    async with AsyncExitStack() as held:
        async with living(place, shared) as first:
            second = await held.enter_async_context(living(place, shared))
            assert await asked(first, second) == [404, 404]
            refused = await second.put("/v1/users/new/examples", json={"examples": [{"text": "a", "labels": ["x"]}]})
            assert refused.status_code == 422
            assert refused.headers["x-request-id"] == refused.json()["error"]["request_id"]
            await enrolled(second)
            one, other = await asked(first, second)
            assert one == other != 404
            assert (await first.get("/v1/users/new")).json() == (await second.get("/v1/users/new")).json()
            assert (await second.delete("/v1/users/new")).json()["deleted"]["examples"] == 6
            assert await asked(first, second) == [404, 404]
        await enrolled(second)  # the first has ended
        assert (await asked(second))[0] == one


def test_one_process_changes_people_for_all_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(name: str, *given: Any) -> Any:
        base = load_tiny(Path(name).name, *given)
        base.name = name
        return base

    for room in ("peftu.lab.lab", "peftu.fitted.opening"):
        monkeypatch.setattr(f"{room}.load_base", tiny)
    fit_tiny(LORA, "llama")[0].save(tmp_path / "kept")
    (tmp_path / "shared").mkdir()
    asyncio.run(led(tmp_path / "kept", tmp_path / "shared"))


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


@pytest.mark.slow
@pytest.mark.timeout(600)
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
