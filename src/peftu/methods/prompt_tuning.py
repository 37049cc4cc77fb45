"""Prompt tuning: virtual tokens in front of the text, or of the answer (Lester et al. 2021, arXiv 2104.08691)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class PromptTuning(Module):
    """`states` [G, tokens, d] enter at the region's floor; in peft they are `prompt_embeddings` (floor 0, span all)."""

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

    tokens: int = Field(20, ge=1, description="Virtual tokens.")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the virtual tokens' states."""
        if site.kind != "tokens":
            return {}
        return {"states": TensorSpec((self.tokens, site.d_out), 3**0.5), "switch": TensorSpec((), switch=True)}

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the virtual tokens' states [G, tokens, d]."""
        return p["states"]
