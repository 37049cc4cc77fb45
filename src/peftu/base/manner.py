"""What a layer asks of its attention, beside queries, keys and values: transformers hands it on as keywords."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# queries, keys [rows, heads, tokens, head width] -> what their places and content add to the logits
Bias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Manner:
    """How a layer attends.

    Attributes:
        scale: factor of the logits.
        window: how many tokens a token looks at, itself and those just before it; None: all.
        cap: logits are drawn into (-cap, cap), by tanh; None: they are not.
        sinks: [heads] a logit each, which takes its share of the attention and gives nothing; None: there are none.
        bias: [rows or 1, heads or 1, q, m] added to the logits, virtual keys' columns in front, or what makes it of the
            padded queries and keys; None: nothing is.
    """

    scale: float
    window: int | None = None
    cap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | Bias | None = None

    @classmethod
    def of(cls, scale: float, asked: Mapping[str, Any]) -> "Manner":
        """Returns what a layer of transformers asks for by keyword."""
        names = ("sliding_window", "softcap", "s_aux", "position_bias")
        return cls(scale, *(asked.get(name) for name in names))

    @property
    def plain(self) -> bool:
        """Returns whether PyTorch's fused kernel can do it, given a mask."""
        return self.cap is None and self.sinks is None

    def added(self, query: Tensor, key: Tensor) -> Tensor:
        """Returns the bias for padded queries and keys [rows, heads, tokens, head width]; there must be one."""
        assert self.bias is not None  # noqa: S101
        return (self.bias if isinstance(self.bias, Tensor) else self.bias(query, key)).to(query.dtype)

    def weights(self, logits: Tensor, kinds: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns [.., q, m] the attention over m keys; a row sums to less than one where there are sinks.

        Args:
            logits: [.., q, m] of rows × k kinds of keys; the heads that share a kind lie one behind another in q.
            kinds: k.
            dtype: what the softmax is computed in; None: the logits'.
        """
        if self.sinks is None:
            return logits.softmax(-1, dtype=dtype)
        by_kind = logits.reshape(-1, kinds, *logits.shape[-2:])
        each = by_kind.shape[2] * kinds // len(self.sinks)  # queries of a head
        sinks = self.sinks.to(logits.dtype).repeat_interleave(each).view(1, kinds, -1, 1)
        joined = torch.cat([by_kind, sinks.expand(len(by_kind), -1, -1, -1)], -1)
        return joined.softmax(-1, dtype=dtype)[..., :-1].reshape(logits.shape)
