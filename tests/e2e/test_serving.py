"""``peftu serve``: answers are what `peftu predict` gives, for exactly the user who is asked about, or an error."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Client, serving
from terminal import FREE, SRC, TASK, peftu, refused

from peftu.errors import PeftuError
from peftu.execute.stored import opened
from peftu.serving import people
from peftu.serving.access import Access, Token
from peftu.serving.asked import Errand
from peftu.serving.limits import Limits

torch.set_num_threads(1)

LORA = "lora[rank=2]"
METHODS = ["user-majority", "mixed-head[features=tfidf]", "few-shot[k=2]", "hypernet[rank=1,hidden=4]", "lora+guard"]
USERS = ["user-0", "user-3"]
INPUTS: list[Any] = ["a note of blue", {"text": "and more", "context": "on trains"}]
EXAMPLES = {"examples": [{"text": f"Note {n} of soup.", "labels": ["likes"]} for n in range(6)], "method": LORA}


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    methods = ",".join(["global[rank=1]", "zero-shot", LORA, *METHODS])
    made = ("compare", TASK, "--methods", methods, "--base", "./llama", "--raw", "raw", "--epochs", 1)
    assert peftu(*made, "--region", "depth=1,span=answer", "--out", "served").code == 0
    return place / "served"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[Client]:
    with serving(run, limits=Limits(body_bytes=100_000, users=50, inputs=20)) as client:
        yield client


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def predict(client: Client, **asked: Any) -> Any:
    return client("POST", "/v1/predict", json={"users": USERS, "inputs": INPUTS, "method": LORA, **asked})


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [LORA, "zero-shot", "global[rank=1]", *METHODS])
def test_an_answer_is_that_of_predict(client: Client, run: Path, method: str) -> None:
    answer = predict(client, method=method).json()
    assert [result["user"] for result in answer["results"]] == USERS
    for result in answer["results"]:
        asked = ("--text", "a note of blue", "--user", result["user"], "--method", method)
        expected = json.loads(peftu("predict", run, *asked, "--json").out)["answers"][0]
        assert result["fallback"] is None
        assert result["module"]
        assert result["answers"][0]["labels"] == expected["labels"]
        assert result["answers"][0]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert result["answers"][1]["probabilities"] != result["answers"][0]["probabilities"] or "majority" in method


def test_a_missing_module_is_an_error_or_a_fallback_that_is_named(client: Client) -> None:
    users = ["user-0", "nobody"]
    assert (said := predict(client, users=users)).status_code == 404
    assert said.json()["error"]["unknown_users"] == [1]
    assert "nobody" not in said.text
    for fallback, method in (("global", "global[rank=1]"), ("base", "zero-shot")):
        known, unknown = predict(client, users=users, on_missing=fallback).json()["results"]
        assert (known["fallback"], unknown["fallback"]) == (None, fallback)
        (expected,) = predict(client, users=["user-0"], method=method).json()["results"]
        assert unknown["module"] == expected["module"]
        for one, other in zip(unknown["answers"], expected["answers"], strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert predict(client, users=users, on_missing="base", method="user-majority").status_code == 422


def test_ranks_are_the_order_of_probabilities(client: Client) -> None:
    asked = {"input": "a note of blue", "label": "likes", "method": LORA}
    ranked = client("POST", "/v1/rank", json=asked).json()
    assert ranked["users"] == 6
    users = [line["user"] for line in ranked["ranking"]]
    assert client("GET", "/v1/users", params={"method": LORA}).json() == {"users": sorted(users), "total": 6}
    answers = predict(client, users=users, inputs=["a note of blue"]).json()["results"]
    chances = [answer["answers"][0]["probabilities"]["likes"] for answer in answers]
    assert chances == sorted(chances, reverse=True)
    assert [line["probability"] for line in ranked["ranking"]] == pytest.approx(chances, abs=1e-5)
    assert ranked["mean"]["likes"] == pytest.approx(sum(chances) / 6, abs=1e-5)
    few = client("POST", "/v1/rank", json={**asked, "users": users[1:], "top": 2}).json()
    assert [line["user"] for line in few["ranking"]] == users[1:3]
    assert client("POST", "/v1/rank", json={**asked, "label": "loathes"}).status_code == 422


def test_requests_that_wait_are_read_in_one_batch(run: Path) -> None:
    """While the model is busy five requests come; one asks for nobody, which is its own loss."""
    busy, free = threading.Event(), threading.Event()
    with serving(run, LORA) as client:

        def occupied(_: Any) -> None:
            busy.set()
            assert free.wait(60)

        client.service.worker.ask(Errand(occupied))
        assert busy.wait(60)
        body = {"users": ["user-1"], "inputs": ["a note"]}
        asked = [("POST", "/v1/predict", None, {"json": {**body, "users": [u]}}) for u in [*USERS, "no", *USERS]]
        threading.Thread(target=_freed_at, args=(client, free, 5)).start()
        answers = client.together(asked)
        assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200]
        assert answers[0].json() == answers[3].json()
        assert "peftu_batch_requests_sum 5.0" in client("GET", "/metrics").text


def _freed_at(client: Client, free: threading.Event, waiting: int) -> None:
    worker = client.service.worker
    with worker._changed:
        worker._changed.wait_for(lambda: worker._pairs >= waiting, 60)
    free.set()


def test_what_is_too_much_is_refused_and_may_come_again(run: Path) -> None:
    busy, free = threading.Event(), threading.Event()
    with serving(run, LORA, limits=Limits(waiting=2)) as client:
        worker = client.service.worker
        worker.ask(Errand(lambda _: (busy.set(), free.wait(60))))
        assert busy.wait(60)
        taken = [Errand(lambda methods: methods.labels) for _ in range(2)]
        for errand in taken:
            worker.ask(errand)
        refused = client("POST", "/v1/predict", json={"users": ["user-1"], "inputs": ["a note"]})
        free.set()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert taken[1].answer.result(60)


def test_a_request_that_waits_too_long_is_given_up_and_a_stop_finishes_what_was_taken(run: Path) -> None:
    busy, free = threading.Event(), threading.Event()
    with serving(run, LORA, limits=Limits(seconds=0.2)) as client:
        client.service.worker.ask(Errand(lambda _: (busy.set(), free.wait(60))))
        assert busy.wait(60)
        assert client("POST", "/v1/predict", json={"users": ["user-1"], "inputs": ["a"]}).status_code == 504
        taken = Errand(lambda methods: methods.labels)
        client.service.worker.ask(taken)
        free.set()
    assert taken.answer.result() == (f"{LORA}@./llama",)
    assert client("GET", "/readyz").status_code == 503
    assert client("POST", "/v1/predict", json={"users": ["user-1"], "inputs": ["a"]}).status_code == 503


# --- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [LORA, *METHODS])
def test_people_come_change_and_go(own: Path, method: str) -> None:
    with serving(own) as client:
        before = predict(client, method=method).json()
        assert client("PUT", "/v1/users/a%2Fb/examples", json={**EXAMPLES, "method": method}).status_code == 202
        assert client.enrolled("a%2Fb")["enrolment"]["state"] == "done"
        (first,) = predict(client, users=["a/b"], method=method).json()["results"]
        other = {"examples": [{"text": f"{n} kites", "labels": ["dislikes"]} for n in range(9)], "method": method}
        client("PUT", "/v1/users/a%2Fb/examples", json=other)
        client.enrolled("a%2Fb")
        (second,) = predict(client, users=["a/b"], method=method).json()["results"]
        assert (first["module"], first["answers"]) != (second["module"], second["answers"])
        again = opened(own, method).predict("a/b", ["a note of blue"])
        assert second["answers"][0]["probabilities"]["likes"] == pytest.approx(again["p_likes"][0], abs=1e-5)
        gone = client("DELETE", "/v1/users/a%2Fb").json()
        assert gone["deleted"]["methods"] >= 1
        assert gone["remains"] == []  # the run never saw them
        assert predict(client, users=["a/b"], method=method).status_code == 404
        assert client("DELETE", "/v1/users/a%2Fb").status_code == 404
        assert client("GET", "/v1/users/a%2Fb").status_code == 404
        after = predict(client, method=method).json()
        for one, same in zip(before["results"], after["results"], strict=True):
            assert one["answers"] == same["answers"]


def test_a_deletion_that_fails_is_not_called_needless(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a store cannot be emptied of a user whom no served method knows any more."""

    def failing(place: Path, user: str) -> None:
        raise PeftuError(f"{place}: hidden, but still in the log — try again")

    monkeypatch.setattr(people, "forgotten", failing)
    for user in ("user-0", "known to nobody who is served"):
        answer = client("DELETE", f"/v1/users/{user}")
        assert answer.status_code == 503
        assert "nothing was deleted" not in answer.text


def test_whom_another_process_changes_is_answered_anew(own: Path) -> None:
    with serving(own) as client:
        for method in (LORA, "user-majority"):
            (before,) = predict(client, users=["user-0"], method=method).json()["results"]
            opened(own, method).enrol("user-0", [(f"Note {n}", "dislikes") for n in range(12)])
            (after,) = predict(client, users=["user-0"], method=method).json()["results"]
            assert before["module"] != after["module"]
            assert before["answers"] != after["answers"]
        assert peftu("forget", own, "--user", "user-0").code == 0
        for method in (LORA, "user-majority"):
            assert predict(client, users=["user-0"], method=method).status_code == 404
        client.service.worker._methods.sweep()
        assert len(client.service.worker._methods.residents) == 0


def test_an_enrolment_that_fails_says_why_and_changes_nothing(own: Path) -> None:
    with serving(own, LORA) as client:
        (before,) = predict(client, users=["user-0"]).json()["results"]
        (own / "modules" / "shards").chmod(0o500)
        client("PUT", "/v1/users/user-0/examples", json=EXAMPLES)
        ended = client.enrolled("user-0")["enrolment"]
        (own / "modules" / "shards").chmod(0o700)
        if ended["state"] == "failed":  # root may write anywhere
            assert str(own) not in ended["error"]
            assert predict(client, users=["user-0"]).json()["results"] == [before]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"examples": []}, 422),
        ({"examples": [{"text": "a", "labels": ["loathes"]}]}, 422),
        ({"examples": [{"text": "a", "labels": ["likes", "dislikes"]}]}, 422),
        ({"method": "zero-shot"}, 422),
        ({"method": "none"}, 422),
    ],
)
def test_examples_are_checked_before_they_are_taken(client: Client, change: dict[str, Any], status: int) -> None:
    said = client("PUT", "/v1/users/user-0/examples", json={**EXAMPLES, **change})
    assert said.status_code == status
    assert "loathes" not in said.text


# --- who may ----------------------------------------------------------------------------------------------------------


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_tokens_say_who_may_do_what(own: Path) -> None:
    tokens = [
        Token(name="reader", sha256=hashed("r"), scopes=frozenset({"read"})),
        Token(name="boss", sha256=hashed("b"), scopes=frozenset({"read", "write", "admin"})),
        Token(name="person", sha256=hashed("p"), scopes=frozenset({"read", "write"}), users=frozenset({"user-0"})),
    ]
    with serving(own, LORA, access=Access(tokens)) as client:
        body, one = {"json": {"users": USERS, "inputs": INPUTS}}, {"json": {"users": ["user-0"], "inputs": INPUTS}}
        rank, put = {"json": {"input": "a", "label": "likes"}}, {"json": EXAMPLES}
        expected = [
            ("POST", "/v1/predict", body, {None: 401, "wrong": 401, "r": 200, "b": 200, "p": 403}),
            ("POST", "/v1/predict", one, {"p": 200}),
            ("POST", "/v1/rank", rank, {None: 401, "p": 200}),
            ("GET", "/v1/users/user-0", {}, {None: 401, "r": 200, "p": 200}),
            ("GET", "/v1/users/user-1", {}, {"p": 403}),
            ("GET", "/v1/users/nobody", {}, {"p": 403}),
            ("PUT", "/v1/users/user-1/examples", put, {None: 401, "r": 403, "p": 403, "b": 202}),
            ("PUT", "/v1/users/user-0/examples", put, {"p": 202}),
            ("DELETE", "/v1/users/user-1", {}, {None: 401, "r": 403, "p": 403}),
            ("GET", "/metrics", {}, {None: 401, "r": 403, "p": 403, "b": 200}),
            ("GET", "/v1/models", {}, {None: 401, "r": 200}),
            ("GET", "/v1/methods", {}, {None: 401, "r": 200, "p": 200}),
            ("GET", "/v1/users", {}, {None: 401, "r": 403, "b": 200, "p": 200}),
            ("GET", "/", {}, {None: 200}),
            ("GET", "/healthz", {}, {None: 200}),
            ("GET", "/nowhere", {}, {None: 401, "r": 404}),
            ("DELETE", "/v1/users/user-0", {}, {"p": 200}),
            ("DELETE", "/v1/users/user-1", {}, {"b": 200}),
        ]
        for method, path, given, answers in expected:
            for token, status in answers.items():
                assert client(method, path, token, **given).status_code == status, (method, path, token)
        assert client("GET", "/v1/users", "p").json() == {"users": [], "total": 0}
        assert client("GET", "/v1/users?limit=2", "b").json() == {"users": ["user-2", "user-3"], "total": 4}
        ranked = client("POST", "/v1/rank", "b", **rank).json()["ranking"]
        assert {line["user"] for line in ranked} == {f"user-{n}" for n in range(2, 6)}


def test_without_tokens_only_this_machine_is_answered(client: Client) -> None:
    body = {"json": {"users": USERS, "inputs": INPUTS, "method": LORA}}
    assert client("POST", "/v1/predict", headers={"Host": "elsewhere.example"}, **body).status_code == 403
    assert client("POST", "/v1/predict", headers={"Host": "[::1]:8321"}, **body).status_code == 200


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object"),
        ('{"tokens": []}', "tokens: List should have at least 1 item"),
        ('{"tokens": [{"name": "a", "sha256": "secret", "scopes": ["read"]}]}', "tokens.0.sha256"),
        ('{"tokens": [{"name": "a", "sha256": "%s", "scopes": ["all"]}]}' % ("0" * 64), "tokens.0.scopes"),
    ],
)
def test_a_file_of_tokens_that_is_wrong(run: Path, tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    said = peftu("serve", run, "--tokens", tmp_path / "tokens.json")
    refused(said, complaint)
    assert "secret" not in said.err


def test_others_are_not_let_in_without_tokens(run: Path) -> None:
    refused(peftu("serve", run, "--host", "0.0.0.0"), "pass --tokens")  # noqa: S104
    refused(peftu("serve", run, "--method", "nothing"), "the run has no modules of 'nothing'")
    refused(peftu("serve", run / "fitted"), "run")


def test_log_and_metrics_hold_no_key_and_no_text(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "peftu.serving"):
        predict(client)
        predict(client, users=["secret-key"])
        client("GET", "/v1/users/secret-key")
    assert "POST /v1/predict 200" in caplog.text
    metrics = client("GET", "/metrics").text
    assert 'peftu_modules_total{event="hit",tier="memory"}' in metrics
    for text in (caplog.text, metrics):
        for secret in ("user-0", "secret-key", "blue", "likes"):
            assert secret not in text


# --- OpenAI's API -----------------------------------------------------------------------------------------------------


def test_free_answers_come_by_the_api_of_openai(place: Path) -> None:
    made = ("compare", FREE, "--methods", "lora[rank=2]", "--base", "./llama", "--raw", "raw", "--epochs", 1)
    assert peftu(*made, "--region", "depth=1", "--out", "writes").code == 0
    with serving(place / "writes") as client:
        names = [model["id"] for model in client("GET", "/v1/models").json()["data"]]
        assert names[:2] == ["./llama", "./llama:user-0"]
        offline = opened(place / "writes").predict("user-0", ["a note", "another"])["answer"].to_list()
        body = {"model": "./llama:user-0", "prompt": ["a note", "another"]}
        answer = client("POST", "/v1/completions", json=body).json()
        assert [choice["text"] for choice in answer["choices"]] == offline
        chat = {"model": "./llama:user-0", "messages": [{"role": "user", "content": "a note"}]}
        said = client("POST", "/v1/chat/completions", json=chat).json()
        assert said["choices"][0]["message"] == {"role": "assistant", "content": offline[0]}
        assert len(client("POST", "/v1/completions", json={**body, "max_tokens": 1}).json()["choices"][0]["text"]) <= 1
        bare = client("POST", "/v1/completions", json={**body, "model": "./llama"}).json()
        assert bare["peftu"]["fallback"] == "base"
        for change, status in [
            ({"model": "./llama:nobody"}, 404),
            ({"model": "gpt"}, 404),
            ({"stream": 1}, 422),
            ({"n": 2}, 400),
            ({"temperature": 3}, 422),
        ]:
            assert client("POST", "/v1/completions", json={**body, **change}).status_code == status, change
        assert predict(client, method=None).status_code == 422


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_command_serves_until_it_is_told_to_stop(run: Path, place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "peftu", "serve", "served", "--method", LORA, "--port", "0"]
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines: list[str] = []
        for line in server.stderr:
            lines.append(line)
            if "on http://" in line:
                break
        address = lines[-1].split()[-1]
        body = {"users": USERS, "inputs": INPUTS}
        with httpx.Client(base_url=address) as client:
            while True:
                try:
                    assert client.get("/readyz").json() == {"status": "ready"}
                    break
                except httpx.ConnectError:
                    continue
            answer = client.post("/v1/predict", json=body).json()
            tall = client.get("/v1/users/" + "x" * 60_000)
        server.send_signal(signal.SIGTERM)
        rest = server.stderr.read()
    assert server.returncode in (0, -signal.SIGTERM)  # uvicorn stops well, then ends as the signal would have
    assert any("no --tokens" in line for line in lines)
    assert [result["user"] for result in answer["results"]] == USERS
    assert tall.status_code in (400, 413)
    assert "POST /v1/predict 200" in rest
    assert "user-0" not in rest
    assert "Traceback" not in rest


FIELDS = ["users", "inputs", "method", "on_missing", "input", "label", "top", "examples", "text", "labels", "model"]
FIELDS += ["prompt", "messages", "role", "content", "max_tokens", "temperature", "context"]
WORDS = [*USERS, LORA, "likes", "error", "base", "./llama:user-0", "user", "a\0", "\udfff", "../x", ""]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=9))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)),
    max_leaves=12,
)
ROUTES = [
    ("POST", "/v1/predict"),
    ("POST", "/v1/rank"),
    ("PUT", "/v1/users/user-0/examples"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ROUTES), ANYTHING)
def test_no_body_is_the_services_fault(client: Client, route: tuple[str, str], body: Any) -> None:
    said = client(*route, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    assert said.status_code < 500, said.text
    assert said.status_code < 300 or set(said.json()["error"]) >= {"message", "type", "code", "request_id"}
