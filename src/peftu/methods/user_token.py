"""Each user as one learned token in the input, read by a LoRA which all users share."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.methods.lora import Lora
from peftu.methods.method import MethodCard, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class UserToken(Lora):
    """One virtual token t + e where prompt-tuning has its tokens, and a LoRA: all but e is everybody's.

    `states` [G, 1, d] enter at the region's floor. At a head (encoders): everybody's linear map and bias.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="user-token",
        summary="A LoRA for all users that reads one learned token for each user.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="yes",
        source="UserIdentifier (arXiv 2110.00135), with a learned token",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "epochs": 8, "batch": 32}
    warm_defaults: ClassVar[dict[str, Any]] = {}

    tokens: ClassVar[int] = 1

    dropout: float = Field(0.0, ge=0, le=0, description="None: all users' rows train what is shared.")
    code_lr: float = Field(5.0, gt=0, description="How many times faster a user's token learns than what is shared.")
    code_decay: float = Field(0.01, ge=0, description="Strength with which users' tokens are pulled to the shared one.")

    def code_width(self, sites: "Sequence[Site]") -> int:
        """Returns the width of a token."""
        return next(site.d_out for site in sites if site.kind == "tokens")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns A and B at a target, a user's token at the tokens site."""
        if site.kind != "tokens":
            return super().inside(site)
        return {"states": TensorSpec((1, site.d_out), 3**0.5), "switch": TensorSpec((), switch=True)}

    def shared(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the same tensors: everybody's LoRA, and the token of whom nothing is known."""
        return self.tensors(site)

    def compose(self, site: "Site", shared: "Mapping[str, Tensor]", code: "Tensor") -> "dict[str, Tensor]":
        """Returns each user's tensors."""
        tensors = {name: tensor.expand(len(code), *tensor.shape) for name, tensor in shared.items()}
        return {**tensors, "states": shared["states"] + code[:, None]} if site.kind == "tokens" else tensors

    def virtual(self, site: "Site", p: "Mapping[str, Tensor]") -> "Tensor":
        """Returns the users' tokens [G, 1, d]."""
        return p["states"]
