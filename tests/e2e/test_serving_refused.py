"""What a service refuses: the right status, one line, and nothing of a key or a text in the answer or the log."""

import gzip
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Client, serving

from peftu.serving.access import Access, Token
from peftu.serving.limits import Limits
from peftu.testing.fitted import fit_tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tiny_bases")

PERSON, TEXT = "secret-person", "secret words"
LIMITS = Limits(body_bytes=200_000, users=50, inputs=20, characters=1000, pairs=100, examples=5)
SCOPES: dict[str, tuple[Any, ...]] = {"reader": ("read",), "writer": ("write",), "boss": ("read", "write", "admin")}
BOUND = "own"  # a token of somebody else's

Request = tuple[str, str, Any]
PREDICT: Request = ("POST", "/v1/predict", {"users": [PERSON], "inputs": [TEXT]})
RANK: Request = ("POST", "/v1/rank", {"users": [PERSON], "input": TEXT, "label": "likes"})
ENROL: Request = ("PUT", f"/v1/users/{PERSON}/examples", {"examples": [{"text": TEXT, "labels": ["likes"]}]})
LOOK: Request = ("GET", f"/v1/users/{PERSON}", None)
DELETE: Request = ("DELETE", f"/v1/users/{PERSON}", None)
COMPLETE: Request = ("POST", "/v1/completions", {"model": f"llama:{PERSON}", "prompt": TEXT})
CHAT: Request = (
    "POST",
    "/v1/chat/completions",
    {"model": f"llama:{PERSON}", "messages": [{"role": "user", "content": TEXT}]},
)
MODELS: Request = ("GET", "/v1/models", None)
METRICS: Request = ("GET", "/metrics", None)
WITH_BODY = [PREDICT, RANK, ENROL, COMPLETE, CHAT]
OF_A_PERSON = [*WITH_BODY, LOOK, DELETE]


def tokens() -> list[Token]:
    def token(name: str, scopes: tuple[Any, ...], users: frozenset[str] | None = None) -> Token:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return Token(name=f"the-{name}", sha256=digest, scopes=frozenset(scopes), users=users)

    return [*(token(*given) for given in SCOPES.items()), token(BOUND, SCOPES["boss"], frozenset({"user-0"}))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_bases: None) -> list[Path]:
    """One method that labels, and one that writes."""
    home = tmp_path_factory.mktemp("kept")
    return [fit_tiny("lora[rank=2]", "llama", kind, users=2)[0].save(home / kind) for kind in ("single", "text")]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clients(folders: list[Path]) -> Iterator[dict[str, Client]]:
    """The services by path of what they are asked."""
    options: dict[str, Any] = {"limits": LIMITS, "access": Access(tokens())}
    with serving(folders[0], **options) as labels, serving(folders[1], **options) as writes:
        openai = (COMPLETE[1], CHAT[1], MODELS[1])
        yield {path: writes if path in openai else labels for _, path, _ in (*OF_A_PERSON, MODELS, METRICS)}


def refused(
    clients: dict[str, Client],
    caplog: pytest.LogCaptureFixture,
    request: Request,
    token: str | None,
    status: int,
    **given: Any,
) -> str:
    """Returns the message, which is one line, of an answer without anybody's key or text."""
    method, path, body = request
    client = clients.get(path) or clients[PREDICT[1]]
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        said = client(method, path, token, **(given or ({} if body is None else {"json": body})))
    assert said.status_code == status, said.text
    error = said.json()["error"]
    assert error["code"] == status
    assert error["request_id"] == said.headers["x-request-id"]
    assert "secret" not in said.text + str(said.headers)
    logged = [record for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))]
    assert len(logged) == 1
    for line in (error["message"], logged[0].getMessage()):
        assert len(line.splitlines()) == 1
        assert len(line) < 300
        assert not any(word in line for word in ("secret", "passwd", "Traceback"))
    return str(error["message"])


# --- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [*OF_A_PERSON, MODELS, METRICS], ids=lambda request: request[1])
def test_a_stranger_is_told_nothing(
    clients: dict[str, Client], caplog: pytest.LogCaptureFixture, request_: Request
) -> None:
    for token in (None, "secret", "x" * 5000, "the-boss", hashlib.sha256(b"boss").hexdigest()):
        refused(clients, caplog, request_, token, 401)


@pytest.mark.parametrize(
    ("request_", "token"),
    [
        *((request, "writer") for request in (PREDICT, RANK, LOOK, COMPLETE, CHAT, MODELS)),
        (ENROL, "reader"),
        *((request, token) for request in (DELETE, METRICS) for token in ("reader", "writer")),
        *((request, BOUND) for request in OF_A_PERSON),
    ],
)
def test_another_scope_or_another_user_is_refused(
    clients: dict[str, Client], caplog: pytest.LogCaptureFixture, request_: Request, token: str
) -> None:
    message = refused(clients, caplog, request_, token, 403)
    assert ("bound" in message) == (token == BOUND)


def test_a_token_of_one_user_does_not_reach_the_rest(
    clients: dict[str, Client], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither beside one's own, nor by the base that answers without a module."""
    path = PREDICT[1]
    both = ("POST", path, {"users": ["user-0", PERSON], "inputs": [TEXT]})
    refused(clients, caplog, both, BOUND, 403)
    refused(clients, caplog, ("POST", COMPLETE[1], {"model": "llama", "prompt": TEXT}), BOUND, 403)
    assert clients[path]("POST", path, BOUND, json={"users": ["user-0"], "inputs": [TEXT]}).status_code == 200
    ranked = clients[path]("POST", RANK[1], BOUND, json={"input": TEXT, "label": "likes"}).json()
    assert [line["user"] for line in ranked["ranking"]] == ["user-0"]
    listed = clients[MODELS[1]]("GET", MODELS[1], BOUND).json()["data"]
    assert [model["id"] for model in listed] == ["llama:user-0"]


# --- what is asked ----------------------------------------------------------------------------------------------------


def sent(content: Any, kind: str = "application/json", **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": kind, **headers}}


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body without a length."""
    for part in parts:
        yield part


def with_number(body: Any, number: str) -> bytes:
    return json.dumps({**body, "temperature": "here"}).replace('"here"', number).encode()


@pytest.mark.parametrize("request_", WITH_BODY, ids=lambda request: request[1])
def test_a_body_that_is_no_question(
    clients: dict[str, Client], caplog: pytest.LogCaptureFixture, request_: Request
) -> None:
    body = json.dumps(request_[2]).encode()
    deep = b'{"users": ' + b"[" * 150 + b'"secret"' + b"]" * 150 + b"}"
    for given, status in [
        *(
            (sent(with_number(request_[2], number)), 400)
            for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000)
        ),
        (sent(deep), 400),
        (sent(b"[" * 90_000), 400),
        (sent(body[:-1]), 400),
        (sent(body.replace(b"secret", b"secret\\ud800")), 400),
        (sent(body.replace(b"secret", b"secret\xff")), 400),
        (sent(gzip.compress(body), **{"Content-Encoding": "gzip"}), 400),
        (sent(body, "text/plain"), 415),
        (sent(body, "multipart/form-data; boundary=secret"), 415),
        (sent(body, ""), 415),
        (sent(b" " * LIMITS.body_bytes + body), 413),
        (sent(pieces(body, b" " * LIMITS.body_bytes)), 413),
        (sent(body, **{"Content-Length": "9" * 40}), 413),
        (sent(b""), 422),
        (sent(b"[]"), 422),
        (sent(b"7"), 422),
        (sent(b"null"), 422),
        (sent(b'{"secret": 1}'), 422),
    ]:
        refused(clients, caplog, request_, "boss", status, **given)


@pytest.mark.parametrize(
    ("request_", "changed", "status"),
    [
        (PREDICT, {"users": [PERSON] * 51}, 413),
        (PREDICT, {"users": [PERSON, PERSON]}, 422),
        (PREDICT, {"users": []}, 422),
        (PREDICT, {"users": [7]}, 422),
        (PREDICT, {"users": {PERSON: 1}}, 422),
        (PREDICT, {"users": [[PERSON]]}, 422),
        (PREDICT, {"inputs": [TEXT] * 21}, 413),
        (PREDICT, {"inputs": [TEXT] * 20, "users": [f"{PERSON}-{number}" for number in range(6)]}, 413),
        (PREDICT, {"inputs": [TEXT * 100]}, 413),
        (PREDICT, {"inputs": []}, 422),
        (PREDICT, {"inputs": [None]}, 422),
        (PREDICT, {"inputs": [{"text": TEXT, "secret": 1}]}, 422),
        (PREDICT, {"on_missing": TEXT}, 422),
        (PREDICT, {"secret": TEXT}, 422),
        (PREDICT, {}, 404),
        (RANK, {"label": TEXT}, 422),
        (RANK, {"top": 0}, 422),
        (RANK, {"top": 1.5}, 422),
        (RANK, {"top": True}, 422),
        (RANK, {"users": [PERSON, PERSON]}, 422),
        (RANK, {}, 404),
        (ENROL, {"examples": [{"text": TEXT, "labels": ["likes"]}] * 6}, 413),
        (ENROL, {"examples": [{"text": TEXT * 100, "labels": ["likes"]}]}, 413),
        (ENROL, {"examples": [{"text": TEXT, "labels": ["secret"]}]}, 422),
        (ENROL, {"examples": [{"text": TEXT, "labels": ["likes", "dislikes"]}]}, 422),
        (ENROL, {"examples": []}, 422),
        (COMPLETE, {"model": TEXT}, 404),
        (COMPLETE, {"prompt": [TEXT] * 21}, 413),
        (COMPLETE, {"prompt": []}, 422),
        (COMPLETE, {"max_tokens": 0}, 422),
        (COMPLETE, {"temperature": 3}, 422),
        (COMPLETE, {"temperature": "warm"}, 422),
        (COMPLETE, {"n": 2}, 400),
        (COMPLETE, {}, 404),
        (CHAT, {"messages": []}, 422),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, 422),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "secret"}}]}, 400),
        (CHAT, {}, 404),
    ],
)
def test_a_question_that_cannot_be_answered(
    clients: dict[str, Client],
    caplog: pytest.LogCaptureFixture,
    request_: Request,
    changed: dict[str, Any],
    status: int,
) -> None:
    method, path, body = request_
    refused(clients, caplog, (method, path, {**body, **changed}), "boss", status)


def test_a_million_users_are_too_many(clients: dict[str, Client], caplog: pytest.LogCaptureFixture) -> None:
    users = [str(number) for number in range(1_000_000)]
    refused(clients, caplog, (*PREDICT[:2], {"users": users, "inputs": [TEXT]}), "boss", 413)


KEYS = {  # as JSON, as a part of a path, and what is said of each
    "path-like": ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", 404, 404),
    "absolute": ("/etc/passwd", "%2Fetc%2Fpasswd", 404, 404),
    "long": ("secret" * 17_000, "secret" * 10_000, 413, 413),
    "NUL": ("secret\0", "secret%00", 422, 422),
    "line": ("secret\nsecret", "secret%0Asecret", 422, 404),
    "everyone": ("", "", 422, 422),
    "backwards": ("secret\u202ecod.exe", "secret%E2%80%AEcod.exe", 404, 404),
    "no UTF-8": ("secret\udcff", "secret%FF", 400, 400),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_nobody_has(
    clients: dict[str, Client], folders: list[Path], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    key, quoted, of_body, of_path = KEYS[name]
    before = sorted(path for folder in folders for path in folder.parent.rglob("*"))
    for method, path, body in (PREDICT, RANK, COMPLETE, CHAT):
        asked = {"model": f"llama:{key}"} if "model" in body else {"users": [key]}
        given = sent(json.dumps({**body, **asked}).encode())
        refused(clients, caplog, (method, path, body), "boss", of_body, **given)
    for method in ("GET", "DELETE"):
        refused(clients, caplog, (method, f"/v1/users/{quoted}", None), "boss", of_path)
    if of_body != 404:
        refused(clients, caplog, ("PUT", f"/v1/users/{quoted}/examples", ENROL[2]), "boss", of_path)
    assert sorted(path for folder in folders for path in folder.parent.rglob("*")) == before
