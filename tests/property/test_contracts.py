"""Every module method keeps its promises, and the checks notice when one does not."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import pytest
import torch

from peftu.base.sites import Site
from peftu.methods.bitfit import BitFit
from peftu.methods.bottleneck import Houlsby, Pfeiffer
from peftu.methods.everyone import Global
from peftu.methods.full import Full
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import ALora, Lora
from peftu.methods.method import ModuleMethod, TensorSpec
from peftu.methods.p_tuning import PTuning
from peftu.methods.personal_head import PersonalHead
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.methods.vera import Vera
from peftu.testing import FAMILIES, check_method

torch.set_num_threads(1)

KINDS = {"llama": "decoder", "gpt2": "decoder", "bert": "encoder", "t5": "encoder_decoder"}
EVERY_OTHER = [
    *(ALora(), BitFit(), Full(), Houlsby(), Ia3(), PersonalHead(), Pfeiffer(), Vera()),
    *(PromptTuning(tokens=2), PrefixTuning(tokens=2), PTuning(tokens=2, hidden=3), Global(rank=3, targets=("o", "up"))),
]
ATTENTION = ("q", "k", "v", "o")
AGAIN = pytest.mark.slow  # a pair of two that stand in other pairs of the default suite


def pairs(methods: Sequence[ModuleMethod], kept: str) -> Iterator[Any]:
    """Yields every method with each family that it claims; in the default suite, with llama and one of the others."""
    turn = cycle(kept.split())
    for method in methods:
        claimed = [family for family in FAMILIES if KINDS[family] in method.card.families]
        other = next((name for name in islice(turn, len(FAMILIES)) if name in claimed), "llama")
        for family in claimed:
            marks = () if family in ("llama", other) else AGAIN
            yield pytest.param(method, family, id=f"{method.card.name}-{family}", marks=marks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method",
    [
        Lora(),
        Lora(rank=1, alpha=4, targets=(*ATTENTION, "gate", "up", "down"), rslora=True, head=True),
    ],
    ids=["default", "every-site"],
)
def test_lora(method: Lora, family: str) -> None:
    check_method(method, [family])


@pytest.mark.parametrize(("method", "family"), pairs(EVERY_OTHER, "bert t5 gpt2"))
def test_every_other_method(method: ModuleMethod, family: str) -> None:
    check_method(method, [family])


@pytest.mark.parametrize(
    ("method", "families"),
    [
        (Lora(targets=("v",), head=False), ["bert"]),
        (Lora(targets=("gate",), head=True), ["gpt2"]),
        (Lora(rank=16, alpha=2, targets=("down",), rslora=True), ["bert"]),
        (Lora(rank=2, dropout=0.3), ["gpt2"]),
        (Pfeiffer(parallel=True, reduction=4, activation="gelu"), ["llama"]),
        (Vera(rank=4, targets=("k", "down"), seed=1, head=True), ["t5"]),
        pytest.param(Pfeiffer(parallel=True, reduction=4, activation="gelu"), ["gpt2", "bert", "t5"], marks=AGAIN),
        pytest.param(Lora(targets=("v",), head=False), ["llama"], marks=AGAIN),
        pytest.param(Lora(targets=("gate",), head=True), ["t5"], marks=AGAIN),
        pytest.param(Lora(rank=16, alpha=2, targets=("down",), rslora=True), ["llama"], marks=AGAIN),
        pytest.param(Lora(rank=2, dropout=0.3), ["t5"], marks=AGAIN),
        pytest.param(Vera(rank=4, targets=("k", "down"), seed=1, head=True), ["gpt2"], marks=AGAIN),
        (PTuning(tokens=3, encoder="mlp", hidden=4), ["llama"]),
        (PrefixTuning(tokens=2, init="random"), ["gpt2"]),
    ],
)
def test_other_knobs(method: ModuleMethod, families: list[str]) -> None:
    check_method(method, families)


# --- a broken method is noticed --------------------------------------------------------------------------------------


class _StartsElsewhere(Lora):
    """`B` does not start at zero."""

    def tensors(self, site: Site) -> dict[str, TensorSpec]:
        return {name: TensorSpec(spec.shape, 0.01) for name, spec in super().tensors(site).items()}


class _MixesUsers(Lora):
    """Each user gets the mean of the cohort's change."""

    def apply(self, site: Site, x: torch.Tensor, y: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return y + (super().apply(site, x, y, p) - y).mean(0, keepdim=True)


class _TakesTheFirst(Lora):
    """Everybody reads with the first user's module."""

    def apply(self, site: Site, x: torch.Tensor, y: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        first = {name: tensor[:1].expand_as(tensor) for name, tensor in p.items()}
        return super().apply(site, x, y, first)


class _DoesNothing(Lora):
    """The module is read and has no effect."""

    def apply(self, site: Site, x: torch.Tensor, y: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return y + 0 * sum(tensor.sum() for tensor in p.values())


class _AddsToEmptySlots(Lora):
    """An all-zero module is not the base."""

    def apply(self, site: Site, x: torch.Tensor, y: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return super().apply(site, x, y, p) + (0.1 if not p["A"].any() else 0)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_StartsElsewhere, "fresh module is not the base"),
        (_MixesUsers, "read together"),
        (_TakesTheFirst, "read together"),
        (_DoesNothing, "score alike"),
        (_AddsToEmptySlots, "empty slot"),
    ],
)
def test_a_broken_promise_is_named(broken: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=f"lora on llama, depth=full,span=all: .*{complaint}"):
        check_method(broken(targets=("v",), head=False), ["llama"])
