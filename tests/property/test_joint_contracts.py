"""Every joint method keeps its promises, and the checks notice when one does not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from peftu.base.sites import Site
from peftu.methods.hypernet import Hypernet
from peftu.methods.method import TensorSpec
from peftu.methods.random_effects import RandomEffects
from peftu.methods.user_embedding import UserEmbedding
from peftu.methods.user_token import UserToken
from peftu.testing import FAMILIES, check_joint_method, check_method

torch.set_num_threads(1)

Tensors = Mapping[str, torch.Tensor]


METHODS = (UserEmbedding(), UserToken(), Hypernet(), RandomEffects())
ONCE = {
    "user-embedding": ("llama", "t5"),
    "user-token": ("gpt2", "bert"),
    "hypernet": ("llama", "bert"),
    "random-effects": ("gpt2", "bert"),
}


@pytest.mark.parametrize(
    ("method", "family"),
    [
        pytest.param(method, family, marks=() if family in ONCE[method.card.name] else pytest.mark.slow)
        for method in METHODS
        for family in FAMILIES
    ],
    ids=lambda value: getattr(getattr(value, "card", None), "name", value),
)
def test_joint_methods(method: Any, family: str) -> None:
    check_joint_method(method, [family])


def test_with_other_knobs() -> None:
    check_joint_method(UserEmbedding(rank=2, size=3, targets=("up", "down"), head=True), ["bert"])
    check_joint_method(Hypernet(rank=2, size=3, hidden=5, head=True), ["t5"])


def test_what_is_composed_is_a_module_like_any_other() -> None:
    check_method(UserEmbedding(), ["llama"])


# --- a broken method is noticed --------------------------------------------------------------------------------------


class _StartsElsewhere(UserEmbedding):
    """`B` does not start at zero."""

    def shared(self, site: Site) -> dict[str, TensorSpec]:
        own = super().shared(site)
        return {**own, "B": TensorSpec(own["B"].shape, 0.1)} if "B" in own else own


class _MixesUsers(UserEmbedding):
    """Everybody is read with the mean code."""

    def compose(self, site: Site, shared: Tensors, code: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().compose(site, shared, code.mean(0, keepdim=True).expand_as(code))


class _KnowsNobody(UserEmbedding):
    """Codes are not read."""

    def compose(self, site: Site, shared: Tensors, code: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().compose(site, shared, 0 * code)


class _SaysMore(UserEmbedding):
    """What is composed is not what is declared."""

    def compose(self, site: Site, shared: Tensors, code: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**super().compose(site, shared, code), "more": code}


class _Presumes(Hypernet):
    """A user without examples has a code."""

    def encode(self, shared: Tensors, moments: torch.Tensor) -> torch.Tensor:
        return super().encode(shared, moments) + 1


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_StartsElsewhere, "not the base bit for bit"),
        (_MixesUsers, "read together"),
        (_KnowsNobody, "score alike"),
        (_SaysMore, "not the declared ones"),
        (_Presumes, "no examples make a code"),
    ],
)
def test_a_broken_promise_is_named(broken: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=f"on llama, depth=full,span=all: .*{complaint}"):
        check_joint_method(broken(), ["llama"])
