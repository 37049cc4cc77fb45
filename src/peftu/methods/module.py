"""What every trained module has: frozen knobs, and a head of its own where the base has none."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from peftu.methods.method import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class Module(BaseModel, ABC):
    """A module method inside the base, with a linear map on the read state: `weight` [G, labels, d], `bias` at zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: bool | None = Field(None, description="Also a linear map on the read state; None: where the base has none.")

    @abstractmethod
    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the tensors at a site inside the base; empty where the method does not act."""

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y [G, n, d_out] changed for G users at once, at a linear map or block inside the base."""
        return y

    def tensors(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the tensors at a site: at the head, where there is to be one, weight and bias."""
        if site.kind != "head":
            return self.inside(site)
        wanted = site.stack == "encoder" if self.head is None else self.head
        return {"weight": TensorSpec((site.d_out, site.d_in)), "bias": TensorSpec((site.d_out,))} if wanted else {}

    def apply(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y changed; at the head, plus each user's linear map of x."""
        if site.kind != "head":
            return self.change(site, x, y, p)
        return y + x @ p["weight"].to(x.dtype).mT + p["bias"].to(x.dtype)[:, None]
