"""``peftu serve``: whatever a run fitted, over HTTP."""

import logging
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from peftu.cli.console import need_torch, stderr
from peftu.cli.options import Device, Dtype, MovedBase, Quantize, Seed
from peftu.cli.people import hardware_spec
from peftu.errors import PeftuError

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
    resident_mb: Annotated[int, typer.Option(min=0, help="Memory for modules that stay loaded.")] = 1024,
) -> None:
    """Answer over HTTP from what a run fitted, enrol and delete people."""
    need_torch()
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise PeftuError(f"serve: needs {', '.join(missing)} — pip install 'peftu[serve]'")
    from peftu.serving.access import LOOPBACK, Access, read_tokens

    if tokens is None and host not in LOOPBACK:
        raise PeftuError(f"--host {host}: others can reach it, and nobody is asked for a token — pass --tokens")
    access = Access(None if tokens is None else read_tokens(tokens))
    import uvicorn

    from peftu.serving.app import make_app
    from peftu.serving.limits import Limits
    from peftu.serving.service import Service

    limits = Limits(batch_requests=batch, waiting=waiting, seconds=seconds, resident_bytes=resident_mb << 20)
    spec = hardware_spec(device, dtype, quantize)
    service = Service(place, method or (), seed, base, spec, limits, access)
    if access.off:
        stderr.print("warning: no --tokens: whoever is on this machine may ask about, change and delete everybody")
    _log_to_stderr()
    listening = _listening(host, port)
    # Its access log has paths, and paths have keys in them: the gate logs instead.
    config = uvicorn.Config(make_app(service), host, port, access_log=False, log_level="warning", server_header=False)
    stderr.print(f"serving {', '.join(service.served)} on http://{host}:{listening.getsockname()[1]}", soft_wrap=True)
    uvicorn.Server(config).run([listening])


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
