"""``peftu serve``: whatever a run fitted, over HTTP."""

import logging
import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftu.cli.console import need_torch, stderr
from peftu.cli.options import Device, Dtype, MovedBase, Quantize, Seed
from peftu.cli.people import hardware_spec
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from peftu.serving.service import Service

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    place: Annotated[Path, typer.Argument(help="A finished run folder, or one that Fitted.save made.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8321,
    tokens: Annotated[
        Path | None, typer.Option(help="JSON file of bearer tokens, see docs/serving.md; needed but on loopback.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method to serve, the first by default; may be given several times.")
    ] = None,
    seed: Seed = None,
    base: MovedBase = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are read at once; 1: no micro-batches.")] = 1024,
    waiting: Annotated[int, typer.Option(min=1, help="Pairs of user and text that may wait.")] = 200_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="After which a request is given up.")] = 60.0,
    resident_mb: Annotated[
        int, typer.Option(min=0, help="Memory for modules that stay loaded, of each process.")
    ] = 1024,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; one of them changes people.")] = 1,
) -> None:
    """Answer over HTTP from what a run fitted, enrol and delete people."""
    need_torch()
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise PeftuError(f"serve: needs {', '.join(missing)} — pip install 'peftu[serve]'")
    from peftu.serving.access import LOOPBACK, Access, read_tokens

    if tokens is None and host not in LOOPBACK:
        raise PeftuError(f"--host {host}: others can reach it, and nobody is asked for a token — pass --tokens")
    access = Access(None if tokens is None else read_tokens(tokens))
    from peftu.serving.limits import Limits
    from peftu.serving.service import Service

    limits = Limits(batch_requests=batch, waiting=waiting, seconds=seconds, resident_bytes=resident_mb << 20)
    spec = hardware_spec(device, dtype, quantize)
    make = partial(Service, place, method or (), seed, base, spec, limits, access)
    service = make()  # whatever is wrong with the folder is told before anybody listens
    if access.off:
        stderr.print("warning: no --tokens: whoever is on this machine may ask about, change and delete everybody")
    listening = _listening(host, port)
    stderr.print(f"serving {', '.join(service.served)} on http://{host}:{listening.getsockname()[1]}", soft_wrap=True)
    if workers > 1:
        del service  # each process opens its own
        _serve_by_many(make, listening, workers)
    else:
        _serve_by_one(lambda: service, listening)


# Uvicorn's access log has paths, and paths have keys in them: the gate logs instead.
QUIET: dict[str, Any] = {"access_log": False, "log_level": "warning", "server_header": False}
QUIET |= {"timeout_worker_healthcheck": 120}  # seconds: a process that takes long to start does not hang


def _serve_by_one(make: "Callable[[], Service]", listening: socket.socket) -> None:
    import uvicorn

    uvicorn.Server(uvicorn.Config(_app(make), **QUIET)).run([listening])


def _serve_by_many(make: "Callable[[], Service]", listening: socket.socket, workers: int) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from peftu.serving.metrics import MULTIPROCESS

    with tempfile.TemporaryDirectory(prefix="peftu-serve-") as shared:
        os.environ[MULTIPROCESS] = shared  # read where a process imports prometheus_client
        config = uvicorn.Config(partial(_app, make, Path(shared)), factory=True, workers=workers, **QUIET)
        Multiprocess(config, [listening]).run()


def _app(make: "Callable[[], Service]", shared: Path | None = None) -> "FastAPI":
    """Returns what a process answers with."""
    from peftu.serving.app import make_app

    _log_to_stderr()
    return make_app(make(), shared)


def _listening(host: str, port: int) -> socket.socket:
    """Returns what listens there.

    Raises:
        PeftuError: nothing can.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PeftuError(f"--port {port}: cannot listen there on {host} ({error.strerror}) — pass another") from None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("peftu.serving")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
