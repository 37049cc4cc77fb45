"""What a model makes of its output matrix's products before they are logits."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Returns numbers drawn into (-cap, cap), by tanh; as they are without a cap."""
    return x if cap is None else torch.tanh(x / cap) * cap


@dataclass(frozen=True)
class Finish:
    """A factor (Granite), then a bound (Gemma 2).

    Attributes:
        scale: the factor.
        cap: logits are drawn into (-cap, cap), by tanh; None: they are not.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "Finish":
        """Returns what a hub model with this config does."""
        cap = getattr(config, "final_logit_softcapping", None)
        return cls(1.0 / getattr(config, "logits_scaling", 1.0), cap)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return capped(x if self.scale == 1.0 else x * self.scale, self.cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """Returns how much logits change with the products that they are made of; None: as much as those."""
        if self.cap is None:
            return None if self.scale == 1.0 else torch.full_like(logits, self.scale)
        return self.scale * (1 - (logits / self.cap) ** 2)
