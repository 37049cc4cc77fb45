"""Before every route: who asks, how much, and whether it is JSON; after it: one line in the log, without contents."""

import asyncio
import logging
import time
import traceback
import uuid
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peftu.outside import parse_json
from peftu.serving.access import Access
from peftu.serving.limits import Limits
from peftu.serving.metrics import Metrics
from peftu.serving.page import FILES
from peftu.serving.problems import RefusedError

_log = logging.getLogger("peftu.serving")
OPEN = ("/healthz", "/readyz", "/openapi.json", *FILES)
KINDS = {400: "bad_request", 401: "authentication", 403: "permission", 404: "not_found", 413: "too_large", 429: "busy"}


def problem(error: RefusedError, request_id: str = "") -> Response:
    """Returns what a refused request is answered; it is what OpenAI's clients read."""
    body: dict[str, Any] = {
        "message": str(error),
        "type": KINDS.get(error.status, "invalid_request" if error.status < 500 else "service"),
        "code": error.status,
        "request_id": request_id,
    }
    if error.places:
        body["unknown_users"] = list(error.places)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": body}, error.status, headers)


class Gate:
    """ASGI middleware.

    Args:
        app: what it stands before.
        access: tokens.
        limits: of bodies.
        metrics: hears of each request.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, request_id, status = time.monotonic(), uuid.uuid4().hex, 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        state = scope.setdefault("state", {})
        state["request_id"], caller = request_id, "-"
        try:
            headers = Headers(scope=scope)
            if scope["path"] not in OPEN:
                state["caller"] = self.access.caller(headers.get("authorization"), headers.get("host", ""))
                caller = state["caller"].name
            _check_path(scope)
            body = await self._body(headers, receive)
            await self.app(scope, _replay(body, receive), noted)
        except RefusedError as error:
            await problem(error, request_id)(scope, receive, noted)
        except Exception as error:  # noqa: BLE001  (a message or a traceback with values would put texts into the log)
            frames = traceback.extract_tb(error.__traceback__)
            where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
            _log.error("id=%s %s in %s", request_id, type(error).__name__, where)
            await problem(RefusedError(500, "an error of the service's own"), request_id)(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.monotonic() - began
            self.metrics.request(route, _method(scope["method"]), status, seconds)
            line = "id=%s caller=%s %s %s %d %.1f ms"
            _log.info(line, request_id, caller, _method(scope["method"]), route, status, 1000 * seconds)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Returns the whole body.

        Raises:
            RefusedError: it is too large, too slow, or no JSON that can be answered.
        """
        large = RefusedError(413, f"body: is over {self.limits.body_bytes:,} bytes — ask less at once")
        if (length := headers.get("content-length", "0")).isdecimal() and int(length[:20]) > self.limits.body_bytes:
            raise large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > self.limits.body_bytes:
                        raise large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise RefusedError(408, "body: took too long to come — send it again") from None
        if body:
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise RefusedError(415, "body: is not of type application/json — say so and send JSON")
            try:
                parse_json(bytes(body), finite=True)
            except ValueError:
                raise RefusedError(400, "body: is no JSON that can be read (NaN, half a character)") from None
        return bytes(body)


def _check_path(scope: Scope) -> None:
    """Checks that no two paths can become one key, as they do where bytes that are no character are replaced."""
    try:
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError:
        raise RefusedError(400, "path: is no UTF-8 — quote the key's UTF-8 bytes") from None


def _method(name: str) -> str:
    return name if name in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns what gives the body that was read, then whatever comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
