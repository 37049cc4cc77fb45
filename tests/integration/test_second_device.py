"""What is made in training and in answering is made where the base is, on a device other than the processor, too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from second_device import second_device
from torch import Tensor

from peftu.base.model import FrozenBase, wrap
from peftu.data.problem import Text
from peftu.methods.method import methods
from peftu.testing import FAMILIES, tiny_base, tiny_model
from peftu.testing.fitted import fit_tiny

CLOSE = 1e-4
TEXTS = [Text("a note that nobody has judged"), Text("rain again, and no train", "So?")]
ASKED = {"full": "full[max_users=9]", "mixed-head": "mixed-head@bert"}
QUICK = [*((family, "lora") for family in FAMILIES), ("llama", "prefix-tuning"), ("llama", "hypernet")]
EVERY = [("llama", name) for name in methods.names()] + [
    (family, name) for family in FAMILIES for name in ("prefix-tuning", "user-token")
]
LABELS = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in QUICK)]
FREE = [("llama", "lora"), ("gpt2", "prompt-tuning"), ("t5", "lora"), ("llama", "few-shot")]

On = Callable[[torch.device | None], None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Has tiny bases computed on a device from now on."""

    def choose(device: torch.device | None) -> None:
        def load(name: str, *_: Any) -> FrozenBase:
            model, tokenizer = tiny_model(name)
            return wrap(model.to(device), tokenizer, name, published=tiny_base(name).fingerprint)

        monkeypatch.setattr("peftu.lab.lab.load_base", load)

    return choose


def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    with second_device() as device:
        away = torch.arange(3.0).to(device)
        assert (away + 1)[torch.tensor([0, 2])].tolist() == [1, 3]
        for wrong in (
            lambda: away + torch.ones(3),
            lambda: torch.ones(3)[away.long()],
            lambda: away.copy_(away).numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        assert (away * torch.tensor(2)).cpu().numpy().tolist() == [0, 2, 4]
        leaf: Tensor = away.clone().requires_grad_()
        (leaf * away).sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        assert leaf.grad.device == device


@pytest.mark.parametrize(("family", "method"), LABELS)
def test_methods_follow_the_base_to_its_device(family: str, method: str, on: On) -> None:
    def scores() -> np.ndarray[Any, Any]:
        fitted, problem = fit_tiny(ASKED.get(method, method), family)
        return fitted.scores(*pairs(problem.users))

    here, there = both(scores, on)
    assert np.abs(here - there).max() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), FREE)
def test_free_answers_are_read_and_written_on_the_bases_device(family: str, method: str, on: On) -> None:
    def answers() -> tuple[np.ndarray[Any, Any], list[str]]:
        fitted, problem = fit_tiny(method, family, "text")
        users, texts = pairs(problem.users)
        written = fitted.write(users[1:3], texts[1:3], temperature=1.0, seeds=[0, 1])
        return fitted.scores(users, texts, ["yes"] * len(users)), written

    here, there = both(answers, on)
    assert np.abs(here[0] - there[0]).max() < CLOSE
    assert here[1:] == there[1:]


def pairs(users: tuple[str, ...]) -> tuple[list[str], list[Text]]:
    return [user for user in users for _ in TEXTS], TEXTS * len(users)


def both(work: Callable[[], Any], on: On) -> tuple[Any, Any]:
    """Returns what work gives with bases on the processor, and on the second device."""
    on(None)
    here = work()
    with second_device() as device:
        on(device)
        return here, work()
