"""OpenAI's own client package asks a service over a socket, as any of its users would."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import torch
from serving import listening, serving

from peftu.fitted.folder import load
from peftu.serving.access import Access, Token
from peftu.testing.fitted import fit_tiny

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("tiny_bases"), pytest.mark.allow_hosts(["127.0.0.1"])]

TEXTS = ["a note of blue", "soup, and trains"]
TOKENS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bases: None) -> Path:
    return fit_tiny("lora[rank=2]", "llama", "text", users=3)[0].save(tmp_path_factory.mktemp("kept") / "writes")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    tokens = [
        Token(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), scopes=frozenset({"read"}), users=users)
        for name, users in (("anybody", None), ("own", frozenset({"user-1"})))
    ]
    with serving(folder, access=Access(tokens)) as client, listening(client) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="anybody", max_retries=0) as client:
        yield client


def test_each_user_is_a_model(client: openai.OpenAI, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["llama", *(f"llama:user-{n}" for n in range(3))]
    with openai.OpenAI(base_url=address, api_key="own") as own:
        assert [model.id for model in own.models.list()] == ["llama:user-1"]
        with pytest.raises(openai.PermissionDeniedError, match="bound to other users"):
            own.completions.create(model="llama:user-2", prompt=TEXTS[0])


def test_a_user_s_module_writes(client: openai.OpenAI, folder: Path) -> None:
    offline = load(folder)
    offline.prompt = replace(offline.prompt, answer_tokens=TOKENS)
    answers = [offline.predict(user, TEXTS)["answer"].to_list() for user in ("user-1", "user-2")]
    assert answers[0] != answers[1]
    for user, expected in zip(("user-1", "user-2"), answers, strict=True):
        completion = client.completions.create(model=f"llama:{user}", prompt=TEXTS, max_tokens=TOKENS)
        assert [choice.text for choice in completion.choices] == expected
        said = [{"role": "user", "content": TEXTS[0]}]
        chat = client.chat.completions.create(
            model=f"llama:{user}", messages=said, temperature=0, max_completion_tokens=TOKENS
        )
        assert chat.choices[0].message.content == expected[0]
        assert chat.model == f"llama:{user}"
        pieces = client.completions.create(model=f"llama:{user}", prompt=TEXTS[1], max_tokens=TOKENS, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == expected[1]
        chunks = client.chat.completions.create(
            model=f"llama:{user}", messages=said, max_completion_tokens=TOKENS, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected[0]
        short = client.completions.create(model=f"llama:{user}", prompt=TEXTS[0], max_tokens=1)
        assert expected[0].startswith(short.choices[0].text)


def test_what_cannot_be_answered_is_an_error_of_the_client_s(client: openai.OpenAI, address: str) -> None:
    asked = {"model": "llama:nobody", "prompt": TEXTS[0]}
    with pytest.raises(openai.NotFoundError, match="no module here"):
        client.completions.create(**asked)
    with pytest.raises(openai.NotFoundError, match="see /v1/models"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "well?"}])
    with pytest.raises(openai.NotFoundError, match="no module here"):
        client.completions.create(**asked, stream=True)
    with pytest.raises(openai.BadRequestError, match="n: is not offered"):
        client.completions.create(**asked, n=2)
    with openai.OpenAI(base_url=address, api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
