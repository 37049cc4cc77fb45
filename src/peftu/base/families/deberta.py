"""DeBERTa v2 and v3: what a token says and how far two are apart are looked at apart, and both by each layer.

The places are projected by maps of the layer, in v3 by those of its queries and keys: a module on these acts on the
places, too, so each group of rows has places of its own. Shape letters: g groups, b rows, h heads, w head width, q
queries, k keys, s places.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from peftu.base.attention import attend
from peftu.base.families.family import ModelType
from peftu.base.families.rerouted import Rerouted, Told, heads_of
from peftu.base.manner import Bias
from peftu.base.packed import sent
from peftu.base.pooling import SentenceConfig
from peftu.errors import PeftuError


class Deberta(Rerouted):
    """An encoder with disentangled attention."""

    types: ClassVar[Mapping[str, ModelType]] = {"deberta-v2": ModelType()}
    attention: ClassVar[str] = "attention.self"
    by_content: ClassVar[bool] = True

    def __init__(self, model: nn.Module, tokenizer: Any, sentence: SentenceConfig | None = None) -> None:
        super().__init__(model, tokenizer, sentence)
        if cast(Any, model).encoder.conv is not None:
            raise PeftuError("base: a DeBERTa with a convolution, which peftu does not read — use a v3, which has none")

    def by_place(self, h_btd: Tensor, positions: Tensor, tokens: int, virtual: int) -> Callable[[int], dict[str, Any]]:
        """Returns the states of the places [s, d] and which one two tokens have [q, k], the same for every layer."""
        encoder = cast(Any, self.model).encoder
        if not encoder.relative_attention:
            return lambda _: {}
        whole, half = torch.empty(virtual + tokens, 0), len(encoder.rel_embeddings.weight) // 2
        apart = build_relative_position(whole, whole, encoder.position_buckets, encoder.max_relative_positions)[0]
        place = (apart + half).clamp(0, 2 * half - 1)
        first, last = int(place[0, -1]), int(place[-1, 0])  # no others are projected
        relative = sent(place[virtual:] - first, h_btd.device), encoder.get_rel_embedding()[first : last + 1]
        return lambda _: {"relative": relative}

    @staticmethod
    def attended(attention: Any, h_btd: Tensor, told: Told, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Returns what the attention module makes of the states before it, as its own forward pass does."""
        width, kinds = attention.attention_head_size, {"c2p", "p2c"} & set(attention.pos_att_type)
        made = (project(h_btd) for project in (attention.query_proj, attention.key_proj, attention.value_proj))
        query, key, value = (heads_of(x, width) for x in made)
        scale = (width * (1 + len(kinds))) ** -0.5
        bias = _disentangled(attention, told, scale) if kinds and "relative" in told.options else None
        out, weights = attend(attention, query, key, value, scaling=scale, position_bias=bias, **told.options)
        return out.flatten(2), weights


def _disentangled(attention: Any, told: Told, scale: float) -> Bias:
    """Returns what adds queries' [b, h, q, w] and keys' [b, h, k, w] products with the places to the logits."""
    index_qk, places_sd = told.options["relative"]
    maps = ("key_proj", "query_proj") if attention.share_att_key else ("pos_key_proj", "pos_query_proj")
    with told.attachment.evenly() as groups:
        places_gsd = places_sd.expand(groups, -1, -1)
        projected = {
            kind: heads_of(getattr(attention, name)(places_gsd), attention.attention_head_size)
            for kind, name in zip(("c2p", "p2c"), maps, strict=True)
            if kind in attention.pos_att_type
        }

    def products(x_bhtw: Tensor, kind: str, index: Tensor) -> Tensor:
        x_grhtw = x_bhtw.view(groups, -1, *x_bhtw.shape[1:])
        all_bhts: Tensor = (x_grhtw @ projected[kind][:, None].mT).flatten(0, 1)
        return all_bhts.gather(-1, index.expand(*all_bhts.shape[:3], -1))

    def bias(query: Tensor, key: Tensor) -> Tensor:
        added = torch.zeros((), device=query.device, dtype=query.dtype)
        if "c2p" in projected:
            added = added + products(query, "c2p", index_qk)
        if "p2c" in projected:
            added = added + products(key, "p2c", index_qk.T).mT
        return added * scale

    return bias
