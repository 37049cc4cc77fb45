"""A service in this process, and a client that needs no socket."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from peftu.serving.app import make_app
from peftu.serving.service import Service


class Client:
    """Asks the application itself, from any thread."""

    def __init__(self, service: Service) -> None:
        self.service, self.app = service, make_app(service)

    def __call__(self, method: str, path: str, token: str | None = None, **given: Any) -> httpx.Response:
        """Returns the answer to one request."""
        return asyncio.run(self._ask([(method, path, token, given)]))[0]

    def together(self, asked: list[tuple[str, str, str | None, dict[str, Any]]]) -> list[httpx.Response]:
        """Returns the answers to requests that are sent at once."""
        return asyncio.run(self._ask(asked))

    async def _ask(self, asked: list[tuple[str, str, str | None, dict[str, Any]]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(_sent(client, *request) for request in asked))

    def enrolled(self, user: str) -> dict[str, Any]:
        """Returns how the user's latest enrolment ended."""
        change = self.service.people.enrolment(user.replace("%2F", "/"))
        assert change is not None
        change.done.exception(120)
        return dict(self("GET", f"/v1/users/{user}").json())


async def _sent(
    client: httpx.AsyncClient, method: str, path: str, token: str | None, given: dict[str, Any]
) -> httpx.Response:
    headers = {**given.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    return await client.request(method, path, headers=headers, **given)


@contextmanager
def serving(place: Path, *methods: str, **options: Any) -> Iterator[Client]:
    """Yields a client of what a folder holds."""
    service = Service(place, methods, **options)
    service.start()
    try:
        yield Client(service)
    finally:
        service.stop()


@contextmanager
def listening(client: Client) -> Iterator[str]:
    """Yields the address of a socket that a client's application answers at."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        server = uvicorn.Server(uvicorn.Config(client.app, lifespan="off", log_level="critical", access_log=False))
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
