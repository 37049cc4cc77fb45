"""Prefix tuning: virtual keys and values in every attention layer (Li & Liang 2021, arXiv 2101.00190)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class PrefixTuning(Module):
    """`prefix` [G, 2, tokens, heads × head width] in each of the region's layers: keys and values.

    In peft they are one matrix, `prompt_embeddings` [tokens, layers × 2 × heads × head width].
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="prefix-tuning",
        summary="Virtual keys and values in every attention layer, learned for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2101.00190",
        loads=("peft",),
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-2, "epochs": 8}

    tokens: int = Field(20, ge=1, description="Virtual tokens.")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the virtual keys and values of a layer."""
        if site.kind != "kv":
            return {}
        return {"prefix": TensorSpec((2, self.tokens, site.d_out), 0.1), "switch": TensorSpec((), switch=True)}

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the virtual keys and values [G, 2, tokens, width]."""
        return p["prefix"]
