"""Where the tokens of a pass stand in their sequences, and which of them look at which.

Shape letters: b rows, q queries, m keys (earlier ones first), n virtual keys, t keys that the pass makes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from peftu.base.virtual import Prefix

NOWHERE = -1  # the place of a key that is none


@dataclass(frozen=True)
class Places:
    """Places of queries and keys, counted from their sequence's first token.

    Attributes:
        queries: [b or 1, q].
        keys: [b or 1, m], `NOWHERE` where there is none; None: what does the attention knows them.
        reach: the longest sequence that may come, in tokens, where a model's rotary angles depend on it; else 0.
        front: [b] the place of the first token behind virtual keys; None: that of the first that the pass makes.
    """

    queries: Tensor
    keys: Tensor | None = None
    reach: int = 0
    front: Tensor | None = None
    _masks: dict[tuple[int | None, bool], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def line(cls, tokens: int, device: torch.device, before: int = 0, reach: int = 0) -> "Places":
        """Returns the places of so many tokens in a row, with so many earlier ones whose keys come first."""
        keys = torch.arange(before + tokens, device=device)[None]
        return cls(keys[:, before:], keys, reach)

    def mask(self, window: int | None, prefix: Prefix | None = None, made: int = 0) -> Tensor:
        """Returns [b or 1, 1, q, m] True where a token may look: at itself and what stands before it.

        Args:
            window: how many tokens it looks at; None: all.
            prefix: virtual keys [b, 1, q, n], which are put between earlier keys and the pass's.
            made: how many keys the pass makes.
        """
        if (window, prefix is not None) not in self._masks:
            assert self.keys is not None  # noqa: S101
            keys, queries = self.keys[:, None, None], self.queries[:, None, :, None]
            seen = (keys >= 0) & (keys <= queries)
            if window is not None:
                seen &= keys > queries - window
            if prefix is not None:
                seen = self._with(seen, prefix, made, window)
            self._masks[window, prefix is not None] = seen
        return self._masks[window, prefix is not None]

    def _with(self, seen: Tensor, prefix: Prefix, made: int, window: int | None) -> Tensor:
        earlier = seen.shape[-1] - made
        seen = prefix.masked(seen, earlier)
        if window is not None:
            assert self.keys is not None  # noqa: S101
            front = self.keys[:, earlier] if self.front is None else self.front
            places = front[:, None] - prefix.count + torch.arange(prefix.count, device=front.device)
            near = places[:, None, None] > self.queries[:, None, :, None] - window
            seen[..., earlier : earlier + prefix.count] &= near
        return seen
