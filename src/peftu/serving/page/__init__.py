"""The page at ``/``: files that are sent as they lie, and ask nobody but the service that sent them."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FILES = {  # path -> package, file, type; they hold nothing of anybody, so nobody is asked for a token
    "/": ("peftu.serving.page", "index.html", "text/html"),
    "/page.css": ("peftu.serving.page", "page.css", "text/css"),
    "/page.js": ("peftu.serving.page", "page.js", "text/javascript"),
    "/icon.svg": ("peftu.serving.page", "icon.svg", "image/svg+xml"),
    "/look.css": ("peftu.report", "templates/look.css", "text/css"),
}


def add_page(app: FastAPI) -> None:
    """Adds the page's files to an application."""
    for path, (package, name, kind) in FILES.items():
        app.add_api_route(path, _sender(files(package).joinpath(name).read_bytes(), kind), include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def sent() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return sent
