"""What a method is: the protocols, the card, and the registry.

A *module method* (LoRA, …) adds tensors to a frozen base, stacked over users; the same code trains and serves one
user or thousands. A *reference method* (majorities, mixed head) is fitted on the labels and frozen features directly.
A *prompting method* (few-shot, …) trains nothing: it composes what the base reads (`peftu.methods.composing`).
A *joint method* (user embedding, …) is a module method whose tensors are composed of shared ones and of a code of each
user's own (`peftu.methods.joint`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from peftu.config import RegionSpec
from peftu.data.problem import Floats, Problem, Text
from peftu.registry import Registry

if TYPE_CHECKING:  # listing methods needs no torch
    from torch import Tensor

    from peftu.base.sites import Site

Numbers = npt.NDArray[np.integer]


class MethodCard(BaseModel):
    """What a reader must weigh when a method's number stands beside another's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    scope: Literal["none", "global", "user", "both"]  # whose parameters it has
    trained: bool
    uses_others_labels: bool  # does a user's prediction depend on other users' labels?
    needs_base: Literal["no", "optional", "yes"]
    source: str  # paper or origin
    families: tuple[Literal["decoder", "encoder", "encoder_decoder"], ...] = ("decoder", "encoder", "encoder_decoder")
    loads: tuple[str, ...] = ()  # who loads an exported module on any base; servers go by base: peftu.peft_io.loaders


class Features(Protocol):
    """Frozen sentence features; a base model gives them."""

    def embed(self, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] one vector a text, the same for every user."""
        ...


class FittedReference(Protocol):
    """A fitted reference method. Users are numbers: first those of the problem, then each new one."""

    notes: dict[str, object]  # choices made on validation data, counts worth reporting

    @property
    def parameters_per_user(self) -> int:
        """Returns how many numbers belong to one user."""
        ...

    def scores(self, users: Numbers, texts: Sequence[Text]) -> Floats:
        """Returns [pairs, labels] log-probabilities for pairs of user number and text, any text."""
        ...

    def enrol(self, user: int | None, texts: Sequence[Text], target: Floats) -> int:
        """Returns the number of the user (None: a new one) fitted to [texts, labels]; all others stay as they are.

        Nothing is changed in place: a shallow copy that was made before goes on answering as it did.
        """
        ...

    def forget(self, user: int) -> None:
        """Drops what belongs to a user, in place nothing; the numbers of later users fall by one."""
        ...

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns named tensors and JSON values that the method's ``restore`` makes the same of."""
        ...


class ReferenceMethod(Protocol):
    """A method fitted on labels and, where it wants them, frozen features."""

    card: ClassVar[MethodCard]

    def fit(self, problem: Problem, features: Features | None, seed: int) -> FittedReference:
        """Returns the method fitted on the train rows; choices are made on the val rows, test rows stay unread."""
        ...

    def restore(
        self, tensors: Mapping[str, npt.NDArray[Any]], about: dict[str, Any], features: Features | None
    ) -> FittedReference:
        """Returns the fitted method that `FittedReference.state` gave this of."""
        ...


@runtime_checkable
class SearchingMethod(Protocol):
    """A reference method whose search for its own settings looks at a limited number of users.

    Attributes:
        search_users: how many at most.
    """

    search_users: ClassVar[int]

    def settled(self, fitted: Any) -> "ReferenceMethod":
        """Returns the method with the settings that a fit of it chose, so that it searches no more."""
        ...


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a module.

    Attributes:
        shape: without the user axis.
        bound: a fresh tensor is uniform in [-bound, bound]; 0 makes zeros.
        switch: one number that is 0 in a fresh module and 1 from the first training step on. It is not learned, and
            not counted as a parameter. All virtual tokens of a module are left out while it is 0.
        primed: a fresh tensor is what the base itself makes of instruction and label words (`FrozenBase.primer`), give
            or take the bound; its next to last axis counts tokens.
        dropout: share of its last axis that each training step leaves out (`peftu.dropout`).
    """

    shape: tuple[int, ...]
    bound: float = 0.0
    switch: bool = False
    primed: bool = False
    dropout: float = 0.0


class ModuleMethod(Protocol):
    """A method that adds tensors to a frozen base, written once for any number of users.

    All-zero tensors must leave the base unchanged, and so must fresh ones, bit for bit.
    """

    card: ClassVar[MethodCard]

    def tensors(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the tensors the module has at a site; empty where it does not act."""
        ...

    def apply(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y [G, n, d_out] changed for G users at once, given x [G, n, d_in] and tensors [G, *shape]."""
        ...


def region_of(method: object, region: RegionSpec) -> RegionSpec:
    """Returns the region where a method acts when this one is asked for: a class may fix parts of it in ``region``."""
    return region.model_copy(update=getattr(method, "region", {}))


@runtime_checkable
class EnteringMethod(ModuleMethod, Protocol):
    """A module method that changes what goes into frozen linear maps, too."""

    def enter(self, site: "Site", x: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns x [G, n, d_in] changed before the frozen map of a linear site reads it, or x itself."""
        ...


class VirtualMethod(ModuleMethod, Protocol):
    """A module method that puts virtual tokens beside the text's; no token is neutral, so it has a switch."""

    tokens: int

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns states [G, n, d_out] at a 'tokens' site, keys and values [G, 2, n, d_out] at a 'kv' site."""
        ...


@runtime_checkable
class TaughtMethod(ModuleMethod, Protocol):
    """A module method whose fresh modules are found by training another form; only this one's tensors are kept."""

    @property
    def teacher(self) -> ModuleMethod:
        """Returns the method that is trained, at the same sites. From a warm start, this one itself is trained."""
        ...

    def finish(self, site: "Site", p: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Returns this method's tensors at a site [G, …], given the teacher's."""
        ...


methods: Registry[type[Any]] = Registry(
    "method",
    {
        "global-majority": "peftu.methods.reference:GlobalMajority",
        "user-majority": "peftu.methods.reference:UserMajority",
        "mixed-head": "peftu.methods.mixed:MixedHead",
        "lore": "peftu.methods.lore:Lore",
        "history": "peftu.methods.history:History",
        "zero-shot": "peftu.methods.zero_shot:ZeroShot",
        "few-shot": "peftu.methods.prompting:FewShot",
        "retrieval": "peftu.methods.prompting:Retrieval",
        "profile": "peftu.methods.profile:Profile",
        "global": "peftu.methods.everyone:Global",
        "lora": "peftu.methods.lora:Lora",
        "ia3": "peftu.methods.ia3:Ia3",
        "user-embedding": "peftu.methods.user_embedding:UserEmbedding",
        "random-effects": "peftu.methods.random_effects:RandomEffects",
        "user-token": "peftu.methods.user_token:UserToken",
        "hypernet": "peftu.methods.hypernet:Hypernet",
        "prompt-tuning": "peftu.methods.prompt_tuning:PromptTuning",
        "prefix-tuning": "peftu.methods.prefix_tuning:PrefixTuning",
        "p-tuning": "peftu.methods.p_tuning:PTuning",
        "alora": "peftu.methods.lora:ALora",
        "vera": "peftu.methods.vera:Vera",
        "bitfit": "peftu.methods.bitfit:BitFit",
        "adapter-houlsby": "peftu.methods.bottleneck:Houlsby",
        "adapter-pfeiffer": "peftu.methods.bottleneck:Pfeiffer",
        "personal-head": "peftu.methods.personal_head:PersonalHead",
        "full": "peftu.methods.full:Full",
    },
)
