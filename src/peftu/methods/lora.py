"""LoRA: a low-rank change of frozen linear maps (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


Role = Literal["q", "k", "v", "o", "gate", "up", "down"]


def _plus(value: Any) -> Any:
    return tuple(value.split("+")) if isinstance(value, str) else value


class Lora(Module):
    """y + alpha/rank · x Aᵀ Bᵀ at each target; `A` [G, rank, d_in] starts random, `B` [G, d_out, rank] at zero."""

    card: ClassVar[MethodCard] = MethodCard(
        name="lora",
        summary="A low-rank change of the base's linear maps for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2106.09685",
        loads=("peft", "vLLM", "LoRAX"),
    )

    # Chosen by validation loss on TweetEval, seeds 10 to 12, which no reported result uses (design/training.md).
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 8}
    warm_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 6}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (1, 2, 4, 8, 16, 32)}

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    targets: Annotated[tuple[Role, ...], BeforeValidator(_plus)] = Field(
        ("q", "v", "o", "down"), description="Roles of the linear maps, as q+v: of q k v o gate up down."
    )
    rslora: bool = Field(False, description="Scale by alpha/√rank (arXiv 2312.03732) instead of alpha/rank.")

    @property
    def scale(self) -> float:
        """Returns the factor before the low-rank product."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns A and B at a target, nothing elsewhere."""
        if site.role not in self.targets and not (site.role == "qkv" and {"q", "k", "v"} & set(self.targets)):
            return {}
        # peft's start: kaiming-uniform with a = √5 is uniform within 1/√d_in.
        return {"A": TensorSpec((self.rank, site.d_in), site.d_in**-0.5), "B": TensorSpec((site.d_out, self.rank))}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus each user's low-rank change of x."""
        a_grd, b_gor = p["A"].to(x.dtype), p["B"].to(x.dtype)
        return y.baddbmm(x @ a_grd.mT, b_gor.mT, alpha=self.scale)


class GlobalLora(Lora):
    """One LoRA trained on everyone's labels: what a model that ignores who asks can reach."""

    card: ClassVar[MethodCard] = MethodCard(
        name="global",
        summary="One LoRA for all users, trained on everyone's labels.",
        scope="global",
        trained=True,
        uses_others_labels=True,
        needs_base="yes",
        source="arXiv 2106.09685",
        loads=("peft", "vLLM", "LoRAX"),
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-3, "epochs": 12, "batch": 16}
