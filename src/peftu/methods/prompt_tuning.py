"""Prompt tuning: virtual tokens in front of the text, or of the answer (Lester et al. 2021, arXiv 2104.08691)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site

UNIFORM = 3**0.5  # half the width of a uniform distribution with peft's variance of one


class PromptTuning(Module):
    """`states` [G, tokens, d] enter at the region's floor.

    At depth=full,span=all they are peft's `prompt_embeddings`.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="prompt-tuning",
        summary="Virtual tokens in the input, learned for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2104.08691",
        loads=("peft",),
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-2, "epochs": 8}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"tokens": (1, 2, 5, 10, 20)}

    tokens: int = Field(20, ge=1, description="Virtual tokens.")
    init: Literal["text", "random"] = Field("text", description="Start as the prompt's own last tokens, or at random.")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the virtual tokens' states, and the switch."""
        if site.kind != "tokens":
            return {}
        bound = UNIFORM if self.init == "random" else 0.01
        states = TensorSpec((self.tokens, site.d_out), bound, primed=self.init == "text")
        return {"states": states, "switch": TensorSpec((), switch=True)}

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the virtual tokens' states [G, tokens, d]."""
        return p["states"]
