"""What a service answers in a second, with and without micro-batches: MiniLM, made-up users, 64 connections.

    python benchmarks/serving.py [--seconds 60] [--users 1000]    # writes results/serving.json

Each request asks one user, drawn at random, about one short text of a pool. The server is a process of its own; the
client keeps its connections open and sends the next request when it has the answer. Modules are one that was fitted,
with noise: speed does not look at values.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "serving.json"
METHOD, BASE = "lora", "all-minilm-l6-v2"
WORDS = ("the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we", "can")
WARM = 3.0  # seconds before what is counted


def make(folder: Path, users: int) -> int:
    """Returns how many numbers a module has, after putting so many users' into a folder."""
    import torch

    from peftu.fitted.modules import ModuleFitted
    from peftu.fitted.rows import MemoryRows
    from peftu.testing.fitted import fit_tiny

    fitted, _ = fit_tiny(METHOD, BASE)
    assert isinstance(fitted, ModuleFitted)
    assert fitted.rows is not None
    row = fitted.rows.get(fitted.users[:1])[0]
    rows = row + 0.01 * torch.randn(users, len(row))
    fitted.rows = MemoryRows([f"user-{number}" for number in range(users)], rows, [1] * users)
    fitted.save(folder)
    return len(row)


async def load(port: int, seconds: float, users: int, connections: int, texts: int) -> dict[str, Any]:
    """Returns requests a second, their times and errors."""
    rng = random.Random(0)
    pool = [" ".join(rng.choices(WORDS, k=rng.randint(6, 20))) for _ in range(texts)]
    times: list[float] = []
    errors = 0
    begin = time.monotonic() + WARM
    until = begin + seconds

    async def ask() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent := time.monotonic()) < until:
            body = json.dumps({"users": [f"user-{rng.randrange(users)}"], "inputs": [rng.choice(pool)]}).encode()
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            if sent >= begin:
                errors += b" 200 " not in answer[:20]
                times.append(time.monotonic() - sent)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    cuts = statistics.quantiles(times, n=100)
    return {
        "requests_a_second": round(len(times) / seconds, 1),
        "ms_p50": round(1000 * cuts[49], 1),
        "ms_p99": round(1000 * cuts[98], 1),
        "errors": errors,
    }


def measured(folder: Path, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a service of this folder gives, reading so many requests at once."""
    command = [sys.executable, "-m", "peftu", "serve", str(folder), "--port", "0", "--batch", str(batch)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = ""
        while "on http://" not in line:
            line = server.stderr.readline()
        port = int(line.rsplit(":", 1)[1])
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        result = asyncio.run(load(port, options.seconds, options.users, options.connections, options.texts))
        server.terminate()
        server.wait()
        drain.wait()
    return result


def main() -> None:
    """Measures both, and writes what they gave."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--texts", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        width = make(Path(home) / "kept", options.users)
        results = {name: measured(Path(home) / "kept", batch, options) for name, batch in (("on", 1024), ("off", 1))}
    about = {**vars(options), "numbers_a_module": width, "cores": len(os.sched_getaffinity(0))}
    RESULT.write_text(json.dumps({"about": about, "micro_batches": results}, indent=1) + "\n")
    print(json.dumps({"about": about, **results}, indent=1))


if __name__ == "__main__":
    main()
