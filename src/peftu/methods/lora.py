"""LoRA: a low-rank change of frozen linear maps (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.errors import PeftuError
from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module, Targets, is_target

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


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
        loads=("peft",),
    )

    # Chosen by validation loss on TweetEval, seeds 10 to 12, which no reported result uses (design/training.md).
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 8}
    warm_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 6}
    everyone_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-3}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (1, 2, 4, 8, 16, 32)}

    rank: int = Field(8, ge=1, description="Rows of A and columns of B.")
    alpha: float = Field(16.0, gt=0, description="B A x counts alpha / rank times.")
    targets: Targets = ("q", "v", "o", "down")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of A's input features left out in a training step.")
    rslora: bool = Field(False, description="Scale by alpha/√rank (arXiv 2312.03732) instead of alpha/rank.")

    @property
    def scale(self) -> float:
        """Returns the factor before the low-rank product."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns A and B at a target, nothing elsewhere.

        Raises:
            PeftuError: the rank is above the map's width.
        """
        if not is_target(site, self.targets):
            return {}
        if self.rank > (width := min(site.d_in, site.d_out)):
            maps = f"the width {width} of the base's {site.role} maps"
            raise PeftuError(f"method {self.card.name}: rank {self.rank} is above {maps} — use rank={width} or less")
        # peft's start: kaiming-uniform with a = √5 is uniform within 1/√d_in.
        a = TensorSpec((self.rank, site.d_in), site.d_in**-0.5, dropout=self.dropout)
        return {"A": a, "B": TensorSpec((site.d_out, self.rank))}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus each user's low-rank change of x."""
        a_grd, b_gor = p["A"].to(x.dtype), p["B"].to(x.dtype)
        return y.baddbmm((x @ a_grd.mT) * self.scale, b_gor.mT)


class ALora(Lora):
    """LoRA on the tokens after the text alone: what the base made of the text is there for everyone to read."""

    card: ClassVar[MethodCard] = MethodCard(
        name="alora",
        summary="A LoRA for each user that acts from the end of the text on.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2504.12397",
        families=("decoder", "encoder_decoder"),
        loads=("peft",),
    )
    region: ClassVar[dict[str, Any]] = {"span": "answer"}
