"""ModernBERT: rotary positions, of another base in layers that look at near tokens only."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.masking_utils import sliding_window_bidirectional_overlay

from peftu.base.families.encoder import Encoder
from peftu.base.families.family import ModelType


class ModernBert(Encoder):
    """An encoder whose layers look far or near in turn."""

    types: ClassVar[Mapping[str, ModelType]] = {"modernbert": ModelType()}

    def enter(self, h_btd: Tensor, positions: Tensor) -> Tensor:
        """Returns what enters the first layer; places are told to each layer."""
        return cast(Tensor, self.embeddings(inputs_embeds=h_btd))

    def by_place(self, h_btd: Tensor, positions: Tensor, tokens: int, virtual: int) -> Callable[[int], dict[str, Any]]:
        """Returns each layer's rotary positions and, where it looks at near tokens only, what keeps it from others.

        Virtual keys and values are near to all.
        """
        kinds, window = self.config.layer_types, self.config.sliding_window
        rotary = {kind: cast(Any, self.model).rotary_emb(h_btd, positions, kind) for kind in set(kinds)}
        far: dict[str, Tensor] = {}
        if tokens > window + 1:
            place = torch.arange(tokens, device=h_btd.device)
            near = sliding_window_bidirectional_overlay(window)(0, 0, place[:, None], place)
            # Finite: a place behind a row's end may be far from all that are real.
            bias = h_btd.new_zeros(tokens, tokens).masked_fill(~near, torch.finfo(h_btd.dtype).min / 2)
            far["sliding_attention"] = pad(bias, (virtual, 0))[None, None]
        return lambda number: {
            "position_embeddings": rotary[kinds[number]],
            "position_bias": far.get(kinds[number]),
        }
