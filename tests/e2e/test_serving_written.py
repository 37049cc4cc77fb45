"""Free answers: by users and texts, and streamed as OpenAI's clients read them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Client, serving
from terminal import FREE, peftu

from peftu.execute.stored import opened

torch.set_num_threads(1)

USERS, TEXTS = ["user-0", "user-1"], ["a note", "another"]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    made = ("compare", FREE, "--methods", "lora[rank=2],few-shot[k=1]", "--base", "./llama", "--raw", "raw")
    assert peftu(*made, "--epochs", 1, "--region", "depth=1", "--out", "written").code == 0
    return place / "written"


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[Client]:
    with serving(run) as client:
        yield client


@pytest.mark.parametrize("method", ["lora[rank=2]", "few-shot[k=1]"])
def test_users_write_to_texts_as_offline(client: Client, run: Path, method: str) -> None:
    body = {"users": USERS, "inputs": TEXTS, "method": method}
    fitted = opened(run, method)
    for result in client("POST", "/v1/generate", json=body).json()["results"]:
        assert result["answers"] == fitted.predict(result["user"], TEXTS)["answer"].to_list()
        assert result["module"]
    body["max_tokens"] = 8
    drawn = [
        client("POST", "/v1/generate", json={**body, "temperature": 1.5, "seed": seed}).json() for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0]["results"] != drawn[2]["results"]


@pytest.mark.parametrize(
    ("change", "status"),
    [({"users": ["nobody"]}, 404), ({"max_tokens": 0}, 422), ({"temperature": 3}, 422), ({"seed": "a"}, 422)],
)
def test_what_cannot_be_written_is_refused(client: Client, change: dict[str, Any], status: int) -> None:
    body = {"users": USERS, "inputs": TEXTS, "method": "lora[rank=2]", **change}
    assert client("POST", "/v1/generate", json=body).status_code == status


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_what_is_streamed_is_what_is_answered_whole(client: Client) -> None:
    body: dict[str, Any] = {"model": "./llama:user-0", "prompt": TEXTS}
    whole = [choice["text"] for choice in client("POST", "/v1/completions", json=body).json()["choices"]]
    answer = client("POST", "/v1/completions", json={**body, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = [event["choices"][0] for event in events(answer.text)]
    assert ["".join(piece["text"] for piece in pieces if piece["index"] == place) for place in range(2)] == whole
    assert [piece["finish_reason"] for piece in pieces].count("stop") == 2
    assert len(pieces) > 4
    chat = {"model": body["model"], "messages": [{"role": "user", "content": TEXTS[0]}], "stream": True}
    parts = [event["choices"][0]["delta"] for event in events(client("POST", "/v1/chat/completions", json=chat).text)]
    assert "".join(part.get("content", "") for part in parts) == whole[0]
    assert (
        client("POST", "/v1/completions", json={**body, "model": "./llama:nobody", "stream": True}).status_code == 404
    )
