"""Every fitted method is asked about any text, takes in and forgets users, and comes back from a folder."""

from typing import Any

import numpy as np
import pytest
import torch

from peftu.data.problem import Text
from peftu.methods.method import methods
from peftu.testing import load_tiny
from peftu.testing.fitted import CLOSE, check_fitted, fit_tiny

torch.set_num_threads(1)

ASKED = {
    "full": ["full[max_users=9]"],
    "retrieval": ["retrieval", "retrieval[by=dense]"],
    "lora": ["lora[rank=2]", "lora[rank=2,warm_start=global]"],
}


def asked() -> list[str]:
    return [text for name in methods.names() for text in ASKED.get(name, [name])]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **given: Any) -> Any:
        base = load_tiny("bert" if name == "all-minilm-l6-v2" else name, **given)
        base.name = name
        return base

    for room in ("peftu.lab.lab", "peftu.fitted.folder"):
        monkeypatch.setattr(f"{room}.load_base", load)


@pytest.mark.parametrize("method", asked())
def test_a_fitted_method_keeps_every_promise(method: str) -> None:
    check_fitted(method, "llama")


@pytest.mark.parametrize("method", ["user-majority", "mixed-head", "lora", "few-shot", "user-embedding"])
@pytest.mark.parametrize("kind", ["multi", "ordinal"])
def test_whatever_the_kind_of_answer(method: str, kind: Any) -> None:
    check_fitted(method, "llama", kind)


@pytest.mark.parametrize("method", ["lora", "zero-shot", "few-shot", "user-embedding", "global"])
def test_free_answers_too(method: str) -> None:
    check_fitted(method, "llama", "text")


def test_a_text_of_far_pairs_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are scored a few at a time: those of a text together, and each answer is where its pair was."""
    fitted, problem = fit_tiny("lora[rank=2]", "llama")
    texts = [Text(f"new {number}") for number in (0, 1, 2, 3)] * 3
    users = [problem.users[place // 4] for place in range(12)]
    whole = fitted.scores(users, texts)
    chunks: list[list[Text]] = []
    read = fitted.lab.read

    def counted(name: str, prompt: Any, region: Any, items: Any) -> Any:
        chunks.append([text for text, _ in items])
        return read(name, prompt, region, items)

    monkeypatch.setattr("peftu.fitted.fitted.PAIRS", 6)
    monkeypatch.setattr(fitted.lab, "read", counted)
    np.testing.assert_allclose(fitted.scores(users, texts), whole, atol=CLOSE)
    assert [sorted(set(chunk)) for chunk in chunks] == [texts[:2], texts[2:4]]
    assert len(np.unique(whole, axis=0)) == 12
