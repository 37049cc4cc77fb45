"""A vector for each user that shifts a LoRA which all users share."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.methods.lora import Lora
from peftu.methods.method import MethodCard, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class UserEmbedding(Lora):
    """y + alpha/rank · (x (diag(1 + C e) A)ᵀ + D e) Bᵀ: A, B, C, D are everybody's, the vector e is the user's.

    At a head (encoders): everybody's linear map and bias, and a bias U e of the user's.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="user-embedding",
        summary="A LoRA for all users, and a vector for each user that scales and shifts it.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="yes",
        source="UserIdentifier (arXiv 2110.00135) and FiLM (arXiv 1709.07871), on LoRA",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "epochs": 8, "batch": 32}
    warm_defaults: ClassVar[dict[str, Any]] = {}

    dropout: float = Field(0.0, ge=0, le=0, description="None: all users' rows train what is shared.")
    size: int = Field(16, ge=1, description="Numbers in a user's vector.")
    code_lr: float = Field(5.0, gt=0, description="How many times faster a user's vector learns than what is shared.")
    code_decay: float = Field(0.01, ge=0, description="Strength with which users' vectors are pulled to zero.")

    def code_width(self, sites: "Sequence[Site]") -> int:
        """Returns the size of a user's vector."""
        return self.size

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns a user's A, B and shift at a target."""
        tensors = super().inside(site)
        return {**tensors, "shift": TensorSpec((self.rank,))} if tensors else {}

    def shared(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns A, B, C and D at a target; at a head, weight, bias and U."""
        tensors, spread = self.tensors(site), self.size**-0.5
        if site.kind == "head":
            return {**tensors, "U": TensorSpec((site.d_out, self.size), spread)} if tensors else {}
        maps = {name: TensorSpec((self.rank, self.size), spread) for name in "CD"}
        return {"A": tensors["A"], "B": tensors["B"], **maps} if tensors else {}

    def compose(self, site: "Site", shared: "Mapping[str, Tensor]", code: "Tensor") -> "dict[str, Tensor]":
        """Returns each user's tensors."""
        if site.kind == "head":
            weight = shared["weight"].expand(len(code), -1, -1)
            return {"weight": weight, "bias": shared["bias"] + code @ shared["U"].mT}
        return {
            "A": (1 + code @ shared["C"].mT)[..., None] * shared["A"],
            "B": shared["B"].expand(len(code), -1, -1),
            "shift": code @ shared["D"].mT,
        }

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus each user's low-rank change of x, shifted."""
        inner = x @ p["A"].to(x.dtype).mT + p["shift"].to(x.dtype)[:, None]
        return y.baddbmm(inner, p["B"].to(x.dtype).mT, alpha=self.scale)
