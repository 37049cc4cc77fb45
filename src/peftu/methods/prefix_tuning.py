"""Prefix tuning: virtual keys and values in every attention layer (Li & Liang 2021, arXiv 2101.00190)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module
from peftu.methods.prompt_tuning import UNIFORM

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class PrefixTuning(Module):
    """`prefix` [G, 2, tokens, heads × head width] in each of the region's layers: keys and values.

    At depth=full,span=all they are peft's `prompt_embeddings` [tokens, layers × 2 × heads × head width]. For a T5, peft
    hands layer i the keys and values of layer 2i modulo the number of layers: where that number is even, half of them
    are read by two layers and half by none, so peft cannot hold such a module of ours.
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
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-2, "epochs": 8}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"tokens": (1, 2, 5, 10, 20)}

    tokens: int = Field(20, ge=1, description="Virtual tokens.")
    init: Literal["text", "random"] = Field(
        "text", description="Start as the prompt's own last keys and values (an encoder: at random), or at random."
    )

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the virtual keys and values of a layer, and the switch."""
        if site.kind != "kv":
            return {}
        bound = 0.01 if self.init == "text" and site.stack == "decoder" else UNIFORM
        prefix = TensorSpec((2, self.tokens, site.d_out), bound, primed=self.init == "text")
        return {"prefix": prefix, "switch": TensorSpec((), switch=True)}

    def virtual(self, site: "Site", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the virtual keys and values [G, 2, tokens, width]."""
        return p["prefix"]
