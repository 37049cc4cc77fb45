"""What every trained module has: frozen knobs, and a head of its own where the base has none."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from peftu.methods.method import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


def _plus(value: Any) -> Any:
    return tuple(value.split("+")) if isinstance(value, str) else value


Role = Literal["q", "k", "v", "o", "gate", "up", "down"]
Targets = Annotated[
    tuple[Role, ...],
    BeforeValidator(_plus),
    Field(description="Roles of the linear maps, as q+v: of q k v o gate up down."),
]


def is_target(site: "Site", targets: tuple[Role, ...]) -> bool:
    """Returns whether a site's role is among the targets; one map for queries, keys and values is any of them."""
    return site.role in targets or (site.role == "qkv" and bool({"q", "k", "v"} & set(targets)))


class Module(BaseModel, ABC):
    """A module method inside the base, which may also have a linear map on the read state."""

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
        return head_tensors(site) if wanted else {}

    def apply(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y changed; at the head, plus each user's linear map of x."""
        return with_head(x, y, p) if site.kind == "head" else self.change(site, x, y, p)


def head_tensors(site: "Site") -> dict[str, TensorSpec]:
    """Returns a linear map on the read state that starts at zero."""
    return {"weight": TensorSpec((site.d_out, site.d_in)), "bias": TensorSpec((site.d_out,))}


def with_head(x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
    """Returns the label scores y [G, n, labels] plus each user's linear map of the read state x [G, n, d]."""
    return y + x @ p["weight"].to(x.dtype).mT + p["bias"].to(x.dtype)[:, None]
