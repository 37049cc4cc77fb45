"""Several processes that answer on one socket, of which one changes people: the others pass such requests on to it.

Whoever holds a lock leads, until it dies; then whoever next has something to pass on, or starts, takes its place.
"""

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peftu.files import locked
from peftu.serving.access import Caller
from peftu.serving.problems import RefusedError

CHANGES = "/v1/users/"  # what is asked of the process that leads
LOCK, SOCKET = "lead.lock", "lead.sock"
MOST_LINE = 1 << 20  # bytes of a request's head, or an answer's


class Passing:
    """ASGI middleware behind the gate: it has looked at whoever asks, and at how much.

    Args:
        app: what it stands before.
        folder: that the processes share, their owner's alone; None: there is one process.
    """

    def __init__(self, app: ASGIApp, folder: Path | None) -> None:
        self.app, self._folder = app, folder
        self._lock: IO[str] | None = None
        self._server: asyncio.Server | None = None
        self._whole: Any = None  # the application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or has it answered."""
        if self._folder is None or scope["type"] not in ("lifespan", "http"):
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            self._whole = scope["app"]
            await self._lead(self._folder)
            await self.app(scope, receive, send)
            self._leave()
        elif scope["path"].startswith(CHANGES) and self._server is None:
            await self._pass_on(self._folder, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lead(self, folder: Path) -> bool:
        """Returns whether this process leads now."""
        lock = (folder / LOCK).open("a")
        if not locked(lock, wait=False):
            lock.close()
            return False
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        self._lock = lock  # held for as long as the process lives
        (folder / SOCKET).unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._passed_on, folder / SOCKET, limit=MOST_LINE)
        return True

    def _leave(self) -> None:
        """Lets another process lead."""
        if self._server is not None and self._lock is not None:
            self._server.close()
            self._lock.close()

    async def _pass_on(self, folder: Path, scope: Scope, receive: Receive, send: Send) -> None:
        """Has a request answered by the process that leads."""
        body = (await receive()).get("body", b"")  # the gate gives it whole
        state = scope["state"]
        asked = {name: scope[name] for name in ("method", "path", "scheme", "http_version")}
        asked |= {name: scope[name].decode("latin-1") for name in ("raw_path", "query_string")}
        asked["headers"] = [[part.decode("latin-1") for part in header] for header in scope["headers"]]
        caller: Caller = state["caller"]
        about = {**asdict(caller), "scopes": sorted(caller.scopes), "users": caller.users and sorted(caller.users)}
        asked |= {"caller": about, "request_id": state["request_id"], "body": len(body)}
        try:
            reader, writer = await asyncio.open_unix_connection(folder / SOCKET, limit=MOST_LINE)
            try:
                writer.write(json.dumps(asked).encode() + b"\n" + body)
                head = json.loads(await reader.readline())
                content = await reader.readexactly(head.get("body", 0))
            finally:
                writer.close()
        except (OSError, EOFError, ValueError):
            if await self._lead(folder):
                await self.app(scope, _once(body), send)
                return
            raise RefusedError(503, "the process that changes people is starting — ask again", 1) from None
        if "failed" in head:
            raise RuntimeError(f"{head['failed']} in the process that leads")
        scope["route"] = SimpleNamespace(path=head["route"])
        headers = [tuple(part.encode("latin-1") for part in header) for header in head["headers"]]
        await send({"type": "http.response.start", "status": head["status"], "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _passed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers a request that another process passes on."""
        with suppress(OSError, EOFError):
            asked = json.loads(await reader.readline())
            body = await reader.readexactly(asked.pop("body"))
            about = asked.pop("caller")
            users = None if about["users"] is None else frozenset(about["users"])
            caller = Caller(about["name"], frozenset(about["scopes"]), users)
            scope: dict[str, Any] = {
                **asked,
                "type": "http",
                "app": self._whole,
                "asgi": {"version": "3.0"},
                "raw_path": asked["raw_path"].encode("latin-1"),
                "query_string": asked["query_string"].encode("latin-1"),
                "headers": [tuple(part.encode("latin-1") for part in header) for header in asked["headers"]],
                "state": {"caller": caller, "request_id": asked["request_id"]},
            }
            said: dict[str, Any] = {}
            content = bytearray()

            async def heard(message: Message) -> None:
                if message["type"] == "http.response.start":
                    said.update(message)
                content.extend(message.get("body", b""))

            try:
                await self.app(scope, _once(body), heard)
                route = getattr(scope.get("route"), "path", "unmatched")
                headers = [[part.decode("latin-1") for part in header] for header in said["headers"]]
                head = {"status": said["status"], "headers": headers, "route": route, "body": len(content)}
                writer.write(json.dumps(head).encode() + b"\n" + bytes(content))
                await writer.drain()
            except Exception as fault:  # noqa: BLE001  (its message may have a text in it)
                writer.write(json.dumps({"failed": type(fault).__name__}).encode() + b"\n")
            finally:
                writer.close()


def _once(body: bytes) -> Receive:
    """Returns what gives a body, and then nothing more."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
