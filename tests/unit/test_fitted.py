"""Every fitted method is asked about any text, takes in and forgets users, and comes back from a folder."""

from typing import Any

import pytest
import torch

from peftu.methods.method import methods
from peftu.testing import load_tiny
from peftu.testing.fitted import check_fitted

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
