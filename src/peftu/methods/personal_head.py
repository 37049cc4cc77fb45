"""A linear map on the read state for each user; the base inside stays as it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import head_tensors, with_head

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class PersonalHead(BaseModel):
    """scores + h Wᵀ + b, with h the state that the base's own scores are read from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: ClassVar[MethodCard] = MethodCard(
        name="personal-head",
        summary="A linear map on the read state for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2407.18078",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 8}
    region: ClassVar[dict[str, Any]] = {"depth": 1}  # nothing below the head changes: run as little as can be

    def tensors(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns weight and bias at the head, nothing elsewhere."""
        return head_tensors(site) if site.kind == "head" else {}

    def apply(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns the scores plus each user's linear map of the read state."""
        return with_head(x, y, p)
