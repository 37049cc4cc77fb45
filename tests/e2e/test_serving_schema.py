"""A service answers what its OpenAPI says, whatever it is sent: schemathesis makes requests and checks the answers."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from inspect import signature
from typing import Any

import pytest
import requests
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from serving import Client, serving

from peftu.serving.access import Access, Token
from peftu.serving.limits import Limits
from peftu.testing.fitted import fit_tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tiny_bases")

TOKEN = "a-token"  # noqa: S105
USERS = ["user-0", "user-1"]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/predict": {"users": USERS, "inputs": ["a note", {"text": "blue", "context": "or red?"}]},
    "/v1/rank": {"input": "a note", "label": "likes", "top": 1},
    "/v1/users/{key}/examples": {"examples": [{"text": "a note", "labels": ["likes"]}], "replace": True},
    "/v1/generate": {"users": USERS, "inputs": ["a note"], "max_tokens": 2},
    "/v1/completions": {"model": "llama:user-0", "prompt": ["a note", "blue"], "max_tokens": 2},
    "/v1/chat/completions": {
        "model": "llama:user-1",
        "messages": [{"role": "user", "content": "a note"}],
        "max_tokens": 2,
    },
}
# A key of the right shape is nobody's; without a token nobody is answered, which other tests say of every route.
NOT_CHECKED = ("positive_data_acceptance", "ignored_auth", "object_level_authorization", "unsupported_method")


class Api:
    """A service and its schema.

    Args:
        client: of the service.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        quiet = {name: {"enabled": False} for name in NOT_CHECKED}
        config = schemathesis.Config.from_dict({"checks": quiet, "generation": {"with-security-parameters": False}})
        content = client("GET", "/openapi.json").json()
        self.operations = [
            found.ok() for found in schemathesis.openapi.from_dict(content, config=config).get_all_operations()
        ]

    def ask(self, case: schemathesis.Case) -> int:
        """Returns the status of an answer, which is of the schema."""
        given = case.as_transport_kwargs("http://localhost")
        known = {name: given[name] for name in given if name in {*signature(requests.Request).parameters}}
        request = requests.Request(**known).prepare()
        content = request.body.encode() if isinstance(request.body, str) else request.body
        headers = {name: value for name, value in request.headers.items() if name != "Content-Length"}
        said = self.client(
            str(request.method), str(request.path_url), TOKEN, content=content, headers=headers, timeout=100
        )
        case.validate_response(said, headers=headers)
        return int(said.status_code)

    def drawn(self, operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, most: int) -> None:
        """Sends requests that fit an operation's schema, or do not."""

        @settings(
            max_examples=most,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(mode))
        def asked(case: schemathesis.Case) -> None:
            self.ask(case)

        with suppress(Unsatisfiable):  # without parameters nothing is wrong
            asked()


@pytest.fixture(scope="module", params=["single", "text"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_bases: None) -> Iterator[Api]:
    """A service that labels, and one that writes."""
    folder = fit_tiny("lora[rank=2]", "llama", request.param, users=3)[0].save(tmp_path_factory.mktemp("kept") / "it")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    token = Token(name="any", sha256=digest, scopes=frozenset(("read", "write", "admin")))
    limits = Limits(body_bytes=50_000, users=20, inputs=10, seconds=100)
    with serving(folder, access=Access([token]), limits=limits) as client:
        yield Api(client)


def test_what_is_answered_is_of_the_schema(api: Api) -> None:
    """Every route answers what it is there for, to one service or the other."""
    writes = next(iter(api.client.service.served.values())).writes
    for operation in api.operations:
        body = BODIES.get(operation.path)
        key = {"key": "user-2"} if "{key}" in operation.path else {}
        given: dict[str, Any] = {} if body is None else {"body": body, "media_type": "application/json"}
        status = api.ask(operation.Case(path_parameters=key, **given))
        if operation.path in ("/v1/predict", "/v1/rank"):
            assert status == (422 if writes else 200)
        elif operation.path == "/v1/generate":
            assert status == (200 if writes else 422)
        elif operation.path.endswith("completions"):
            assert status == (200 if writes else 404)
        else:
            assert status < 300


@pytest.mark.parametrize("most", [2, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_whatever_is_asked_the_answer_is_of_the_schema(api: Api, most: int) -> None:
    for operation in api.operations:
        for mode in schemathesis.GenerationMode:
            api.drawn(operation, mode, most)
