"""VeRA: random low-rank maps that all users share, rescaled for each user (Kopiczko et al. 2024, arXiv 2310.11454)."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module, Targets, is_target

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from peftu.base.sites import Site


class Vera(Module):
    """y + b ⊙ B(d ⊙ A x), with `A` [rank, d_in] and `B` [d_out, rank] random and never trained.

    A user has `d` [rank], stored as the change from ``start``, and `b` [d_out], which starts at zero. One stream of
    numbers makes all maps: that of a narrow site is the head of that of a wide one, as peft slices them, and only the
    spread of `A` goes by the site's own width.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="vera",
        summary="Two scaling vectors a map for each user, around random low-rank maps that all share.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2310.11454",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-2, "epochs": 8}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (64, 128, 256, 512)}

    rank: int = Field(256, ge=1, description="Rows of A and columns of B, which all users share.")
    start: float = Field(0.1, gt=0, description="What d starts at.")
    seed: int = Field(0, ge=0, description="Of the random maps.")
    targets: Targets = ("q", "v")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns d and b at a target."""
        return {"d": TensorSpec((self.rank,)), "b": TensorSpec((site.d_out,))} if is_target(site, self.targets) else {}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus the shared map of x, scaled by each user's vectors."""
        a_dr = shared_map(self.seed, 0, site.d_in, self.rank, site.d_in, x.device, x.dtype)
        b_or = shared_map(self.seed, 1, site.d_out, self.rank, self.rank, x.device, x.dtype)
        narrow = x @ a_dr * (self.start + p["d"]).to(x.dtype)[:, None]
        return y + narrow @ b_or.mT * p["b"].to(x.dtype)[:, None]


@lru_cache(maxsize=64)
def shared_map(
    seed: int, number: int, width: int, rank: int, fan: int, device: "torch.device", dtype: "torch.dtype"
) -> "Tensor":
    """Returns [width, rank] the first numbers of a stream, uniform within √(6/fan) (peft's Kaiming start)."""
    import torch

    stream = np.random.Generator(np.random.PCG64([seed, number])).random(width * rank)
    values = (2 * stream - 1).reshape(width, rank) * (6 / fan) ** 0.5
    return torch.from_numpy(values).to(device=device, dtype=dtype)
