"""One file over HTTP: streamed, resumed, checked, and only then put in its place."""

from pathlib import Path

import httpx

from peftu.errors import PeftuError
from peftu.files import sha256_of

TIMEOUT_S = 30.0


def download(url: str, dest: Path, sha256: str | None, hint: str, transport: httpx.BaseTransport | None = None) -> Path:
    """Returns ``dest`` after fetching a file there; after a break, ``dest``.part is gone on with.

    Args:
        url: the publisher's address.
        dest: the file to write; its folder exists.
        sha256: the digest it must have; None: any.
        hint: how else the file can be had, for the message.
        transport: what carries the request; tests pass their own.

    Raises:
        PeftuError: the publisher cannot be reached or refuses, the file is cut short, or its digest is another.
    """
    part = dest.with_name(dest.name + ".part")
    if sha256 is None:
        part.unlink(missing_ok=True)  # nothing could tell that the two halves are of one file
    with httpx.Client(transport=transport, timeout=TIMEOUT_S, follow_redirects=True) as client:
        resumed = True
        while resumed:
            try:
                resumed = _stream(client, url, part)
            except httpx.HTTPStatusError as error:
                code = error.response.status_code
                raise PeftuError(f"{url}: answered {code} — the file may have moved; {hint}") from None
            except httpx.ConnectError:
                raise PeftuError(f"{url}: cannot be reached — check the network, or {hint}") from None
            except httpx.HTTPError as error:
                why = type(error).__name__
                raise PeftuError(f"{url}: cut short ({why}) — run the command again to go on, or {hint}") from None
            got = sha256_of(part)
            if sha256 in (None, got):
                part.replace(dest)
                return dest
            part.unlink()  # a resumed file may have begun with bytes of an older one: once more, from the start
    raise PeftuError(f"{url}: sha256 is {got}, not {sha256} — the publisher may have changed the file; {hint}")


def _stream(client: httpx.Client, url: str, part: Path) -> bool:
    """Returns whether the bytes were put behind earlier ones."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True
        response.raise_for_status()
        resumed = str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        with part.open("ab" if resumed else "wb") as stream:
            for block in response.iter_raw():
                stream.write(block)
        expected = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
    if part.stat().st_size < expected:
        raise httpx.RemoteProtocolError("fewer bytes than announced")
    return resumed
